"""A model that is built anew for its weights, with a setting that no state holds and no shape shows: another
activation, another way to pool, another number of heads in an attention of one's own.

Told only where its answer is another than with the setting that was trained. A number counts only where it says into
how many parts a width is cut: windows, depths, steps and temperatures are chosen anew on purpose, as are switches (but
not the few of torch's own layers that are listed here). Nor is the same answer in another form (probabilities).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sightline.attach.script.checkpoints.attributes import APART
from sightline.guard.probes.call import Call
from sightline.guard.probes.restore import untouched

OF_TORCH: tuple[tuple[type[nn.Module], str], ...] = (
    (nn.MultiheadAttention, "num_heads"),
    (nn.GroupNorm, "num_groups"),
    (nn.TransformerEncoderLayer, "norm_first"),
    (nn.TransformerDecoderLayer, "norm_first"),
)
CUTS = 3  # parts at most that one dimension is cut into: queries, keys and values; heads; their widths


@dataclass(frozen=True)
class Setting:
    """`key` of the module at `path`: `trained` in the model that learned, `here` in the one that was built anew."""

    path: str
    key: str
    trained: Any
    here: Any
    sure: bool = True  # nothing that one may choose anew

    def __str__(self) -> str:
        name = f"{self.path}.{self.key}".lstrip(".")
        return f"{name} (trained with {_said(self.trained)}, read back with {_said(self.here)})"


def differing(trained: nn.Module, other: nn.Module) -> tuple[Setting, ...]:
    """Where `other` is built otherwise, with the same parameters."""
    theirs = dict(trained.named_modules())
    return tuple(s for name, module in other.named_modules() if name in theirs for s in _of(name, theirs[name], module))


def _of(path: str, trained: nn.Module, module: nn.Module) -> Iterator[Setting]:
    if type(trained) is not type(module):
        owner, _, key = path.rpartition(".")
        if key and not any(one.state_dict() or [*one.children()] for one in (trained, module)):
            yield Setting(owner, key, trained, module)
        return
    for key, here in vars(module).items():
        there = vars(trained).get(key)
        if type(here) is not type(there) or isinstance(here, nn.Module) or not _comparable(here):
            continue
        known = any(isinstance(module, kind) and key == name for kind, name in OF_TORCH)
        if _said(here) != _said(there) and (known or not (key.startswith("_") or isinstance(here, bool))):
            yield Setting(path, key, there, here, sure=known or not isinstance(here, int))


def _comparable(value: Any) -> bool:
    return isinstance(value, str | int) or (callable(value) and hasattr(value, "__qualname__"))


def _said(value: Any) -> str:
    if isinstance(value, nn.Module):
        return type(value).__name__
    return str(getattr(value, "__qualname__", repr(value)))


def telling(settings: tuple[Setting, ...], call: Call) -> tuple[str, ...]:
    """Those with which the model answers otherwise than with the trained ones, all at once, to what it was called with.

    Numbers that cut no width are left as they are.
    """
    if not settings:
        return ()
    with untouched(call.model), torch.no_grad():
        call.model.eval()
        now, cuts = _answer(call)
        settings = tuple(s for s in settings if s.sure or any(s.here in parts for parts in cuts))
        then, others = _as_trained(settings, call)
        cut = tuple(s for s in settings if s.sure or (cuts != others and any(s.trained in parts for parts in others)))
        if len(cut) < len(settings):
            return telling(cut, call)
        if not _apart(now, then):
            return ()
        by_key = {key: tuple(s for s in settings if s.key == key) for key in dict.fromkeys(s.key for s in settings)}
        idle = {key for key, some in by_key.items() if some[0].sure and not _apart(now, _as_trained(some, call)[0])}
    return tuple(str(s) for s in settings if s.key not in idle)


def _apart(now: Tensor | None, then: Tensor | None) -> bool:
    if now is None or then is None or now.shape != then.shape:
        return False
    gap, size = float((now - then).abs().max()), float(torch.stack([now, then]).abs().max())
    return gap > APART * size and not _same_in_another_form(now, then)


def _same_in_another_form(now: Tensor, then: Tensor) -> bool:
    """Whether one follows from the other: probabilities from logits, by one curve, or as rows of length one."""
    if torch.equal(now.flatten().argsort(stable=True), then.flatten().argsort(stable=True)):
        return True
    forms = (lambda x: x.softmax(-1), lambda x: torch.nn.functional.normalize(x, dim=-1))
    return any(torch.allclose(form(now), then, atol=APART) or torch.allclose(form(then), now, atol=APART)
               or torch.allclose(form(now), form(then), atol=APART) for form in forms)  # fmt: skip


def _as_trained(settings: tuple[Setting, ...], call: Call) -> tuple[Tensor | None, set[tuple[int, ...]]]:
    try:
        _put(call.model, [(s, s.trained) for s in settings])
        return _answer(call)
    finally:
        _put(call.model, [(s, s.here) for s in settings])


def _answer(call: Call) -> tuple[Tensor | None, set[tuple[int, ...]]]:
    """What it says, and into which parts widths were cut."""
    with _Cuts(call.model) as cuts:
        return call.run().answers, cuts.seen


def _put(model: nn.Module, values: list[tuple[Setting, Any]]) -> None:
    for setting, value in values:
        owner = model.get_submodule(setting.path)
        if isinstance(value, nn.Module):
            mode = owner._modules[setting.key]
            owner._modules[setting.key] = (
                value if value is setting.here else copy.deepcopy(value).train(mode is not None and mode.training)
            )
        else:
            vars(owner)[setting.key] = value


class _Cuts(TorchDispatchMode):
    """Notes where a view cuts a dimension that is as wide as some weight: into which sizes, and in which order."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._widths = {size for p in model.parameters() for size in p.shape}
        self.seen: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default):
            self._note([*args[0].shape], [*result.shape])
        return result

    def _note(self, was: list[int], now: list[int]) -> None:
        while was and now and was[0] == now[0]:
            was, now = was[1:], now[1:]
        while was and now and was[-1] == now[-1]:
            was, now = was[:-1], now[:-1]
        if len(was) == 1 and was[0] in self._widths and 1 < len(now) <= CUTS and prod(now) == was[0]:
            self.seen.add(tuple(now))
