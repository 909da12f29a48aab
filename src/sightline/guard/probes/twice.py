"""Is evaluation deterministic, and does the mode matter? The same batch, seen again in one mode or another."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sightline.guard.probes.call import Call, Outcome
from sightline.guard.probes.refused import refusable
from sightline.guard.probes.restore import untouched

TOLERANCE = 0.02  # of a factor, in half precision


@refusable
def difference(call: Call) -> float | None:
    """Largest absolute difference between two forward passes of `call` in the model's present mode.

    None when the model gives neither logits, nor a loss, nor a number for each sample.
    """
    with untouched(call.model), torch.no_grad():
        return _gap(call.run(), call.run())


@refusable
def mode_gap(call: Call) -> float | None:
    """Largest absolute difference between the model's present mode and eval mode, with the same random numbers.

    A model that draws random numbers by design (a sampled latent) draws the same ones twice, so only the mode is left.
    """
    with untouched(call.model), torch.no_grad():
        present = call.run()
    with untouched(call.model), torch.no_grad():
        call.model.eval()
        return _gap(present, call.run())


@refusable
def dropping(call: Call, parts: Mapping[str, nn.Module]) -> tuple[str, ...]:
    """Of `parts`, those that drop values in the present mode, and give back what they are given in eval mode."""
    dropped, (back, other) = _passed(call, parts, _drops)[0], _passed(call, parts, _same, evaluate=True)
    return tuple(name for name in parts if name in dropped and name in back and name not in other)


def _passed(
    call: Call, parts: Mapping[str, nn.Module], asked: Callable[[Tensor, Tensor], bool], *, evaluate: bool = False
) -> tuple[set[str], set[str]]:
    """In one forward pass: parts of which it is true of what they are given and what they give, and where it is not."""
    found: tuple[set[str], set[str]] = set(), set()

    def came(name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        alike = (
            bool(args) and all(isinstance(one, Tensor) for one in (args[0], output)) and args[0].shape == output.shape
        )
        found[not (alike and asked(args[0], output))].add(name)

    handles = [part.register_forward_hook(functools.partial(came, name)) for name, part in parts.items()]
    try:
        with untouched(call.model), torch.no_grad():
            if evaluate:
                call.model.eval()
            call.run()
    finally:
        for handle in handles:
            handle.remove()
    return found


def _same(given: Tensor, gave: Tensor) -> bool:
    return gave is given or torch.equal(gave, given)


def _drops(given: Tensor, gave: Tensor) -> bool:
    """Whether some values are 0 and all others larger by one factor, so that their mean stays: no noise, no mask."""
    kept = gave != 0
    if gave is given or not kept.any() or not ((given != 0) & ~kept).any():
        return False
    factors = gave[kept].float() / given[kept].float()
    factor = factors.median()
    return bool(factor > 1.001) and bool(((factors - factor).abs() < TOLERANCE * factor).all())


def live_dropout(call: Call) -> tuple[str, ...]:
    """Names of the functions of torch that drop values in one forward pass of `call`, whatever the modules' modes."""
    with untouched(call.model), torch.no_grad(), _Dropouts() as seen:
        call.run()
    return tuple(dict.fromkeys(seen.names))


class _Dropouts(TorchFunctionMode):
    """Notes each call of a dropout function with training on and p > 0, and of attention with dropout_p > 0."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "scaled_dot_product_attention":
            if (given.get("dropout_p") or (args[4] if len(args) > 4 else 0.0)) > 0:
                self.names.append(name)
        elif "dropout" in name:
            p = given.get("p", args[1] if len(args) > 1 else 0.5)
            training = given.get("training", given.get("train", args[2] if len(args) > 2 else True))
            if p and training:
                self.names.append(name)
        return func(*args, **given)


def _gap(one: Outcome, other: Outcome) -> float | None:
    """0 for outputs of another shape: a mode may be asked for what it alone gives (a detector's losses, its boxes)."""
    for a, b in ((one.logits, other.logits), (one.loss, other.loss), (one.numbers, other.numbers)):
        if a is not None and b is not None:
            return float((a.float() - b.float()).abs().max()) if a.shape == b.shape and a.numel() else 0.0
    return None
