"""Notices who writes to a script's parameters: torch's initialisers, loading, and (by `Scout`) optimizers."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from sightline.attach.adapted import placed
from sightline.attach.given_rates import note
from sightline.attach.hook import Hook
from sightline.attach.origins import ORIGINS

RANDOM = (
    "uniform_",
    "normal_",
    "trunc_normal_",
    "xavier_uniform_",
    "xavier_normal_",
    "kaiming_uniform_",
    "kaiming_normal_",
    "orthogonal_",
    "sparse_",
)


def rests(alive: Sequence[nn.Module], wanted: Collection[int]) -> None:
    """Told of all modules alive when an optimizer was made: what of them is frozen."""
    every = (p for module in alive for p in module.__dict__["_parameters"].values())
    ORIGINS.frozen(p for p in every if p is not None and not p.requires_grad)


class Told:
    """Tells `ORIGINS` what happens, since `install`. `fault`: told of errors of our own."""

    def __init__(self, fault: Callable[[str], None]) -> None:
        self._hook = lambda act: Hook(act, lambda error: fault(f"origin: {type(error).__name__}: {error}"))

    def install(self) -> None:
        """Notice from now on what is initialised, loaded or given to an optimizer."""
        for name in RANDOM:
            self._replace(getattr(nn.init, name))
        load, loaded = nn.Module.load_state_dict, self._hook(_loaded)

        @functools.wraps(load)
        def loading(module: nn.Module, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
            result = load(module, state_dict, *args, **kwargs)
            loaded(module, state_dict)
            return result

        nn.Module.load_state_dict = loading  # type: ignore[method-assign, assignment]
        add, held = Optimizer.add_param_group, self._hook(_held)

        @functools.wraps(add)
        def adding(optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
            result = add(optimizer, *args, **kwargs)
            held(optimizer)
            return result

        Optimizer.add_param_group = adding  # type: ignore[method-assign, assignment]

    def on_import(self) -> Mapping[str, Callable[[], None]]:
        """Module -> what to do once it is there."""
        return {
            "transformers.modeling_utils": self._transformers,
            "peft.tuners.tuners_utils": self._peft,
        }

    def _replace(self, fill: Callable[..., Any]) -> None:
        """Wherever torch itself keeps it."""
        filled = self._drawing(fill)
        for name in [name for name in sys.modules if name.startswith("torch.nn.")]:
            place = sys.modules[name]
            if getattr(place, fill.__name__, None) is fill:
                setattr(place, fill.__name__, filled)

    def _drawing(self, fill: Callable[..., Any]) -> Callable[..., Any]:
        drawn = self._hook(ORIGINS.drawn)

        @functools.wraps(fill)
        def filled(*args: Any, **kwargs: Any) -> Any:
            result = fill(*args, **kwargs)
            drawn(result)
            return result

        return filled

    def _peft(self) -> None:
        """It freezes all but its adapters, and so hides what was frozen before."""
        peft = sys.modules["peft.tuners.tuners_utils"]
        inject = peft.BaseTuner.inject_adapter

        def comes(tuner: Any, model: nn.Module, name: str) -> None:
            how = placed(tuner.peft_config[name])
            if how is not None and not any(isinstance(part, peft.BaseTunerLayer) for part in model.modules()):
                ORIGINS.adapted(model, how)

        before = self._hook(comes)

        @functools.wraps(inject)
        def injecting(tuner: Any, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> Any:
            before(tuner, model, adapter_name)
            return inject(tuner, model, adapter_name, *args, **kwargs)

        peft.BaseTuner.inject_adapter = injecting

    def _transformers(self) -> None:
        """It reads a checkpoint in its own way, and keeps initialisers of its own: torch's, as it found them."""
        kept = getattr(sys.modules.get("transformers.initialization"), "TORCH_INIT_FUNCTIONS", {})
        kept.update((name, getattr(nn.init, name)) for name in RANDOM if name in kept)
        kind = sys.modules["transformers.modeling_utils"].PreTrainedModel
        read, came = kind.from_pretrained.__func__, self._hook(_read)

        @functools.wraps(read)
        def reading(cls: type, *args: Any, **kwargs: Any) -> Any:
            result = read(cls, *args, **kwargs)
            came(result)
            return result

        kind.from_pretrained = classmethod(reading)
        resize, grown = kind.resize_token_embeddings, self._hook(_grown)

        @functools.wraps(resize)
        def resizing(model: Any, *args: Any, **kwargs: Any) -> Any:
            were: list[int] = []
            before(model, were)
            result = resize(model, *args, **kwargs)
            grown(model, were)
            return result

        before = self._hook(lambda model, were: were.extend(map(_rows, tables(model))))
        kind.resize_token_embeddings = resizing


def tables(model: Any) -> list[Tensor]:
    """Its token embedding and its output layer, as far as they have weights of (tokens, width)."""
    modules = [model.get_input_embeddings(), model.get_output_embeddings()]
    weights = [getattr(module, "weight", None) for module in modules]
    return [weight for weight in weights if isinstance(weight, Tensor) and weight.dim() == 2]


def _rows(table: Tensor) -> int:
    """Those that new ones are added to: none count where the others are no better."""
    return len(table) if ORIGINS.given(table) else 0


def _grown(model: Any, were: list[int]) -> None:
    for table, old in zip(tables(model), were, strict=False):
        if 0 < old < len(table) and not table.is_meta:
            ORIGINS.grown(table, old)


def _loaded(module: nn.Module, state: Mapping[str, Any]) -> None:
    ORIGINS.loaded(p for name, p in module.named_parameters(remove_duplicate=False) if name in state)


def _held(optimizer: Optimizer) -> None:
    ORIGINS.held(optimizer.param_groups[-1]["params"])
    note(optimizer)


def _read(result: Any) -> None:
    model = result[0] if isinstance(result, tuple) else result
    if isinstance(model, nn.Module):
        ORIGINS.loaded(model.parameters())
