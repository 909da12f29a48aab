"""Do outputs depend on parameters that no gradient comes to? Nudge these in a pass of the guard's own, and see."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from sightline.guard.probes.call import Call
from sightline.guard.probes.refused import refusable
from sightline.guard.probes.restore import untouched

NUDGE = 0.5  # of a parameter's root mean square, in alternation, so that no normalisation takes it out again


@refusable
def reach(call: Call, names: Collection[str], places: Collection[int]) -> bool | None:
    """Whether an output at one of `places` (see `tensors_of`) moves when the parameters `names` do.

    Nothing is written: the model runs with other tensors in their place. None where that cannot be told, because the
    model gives two answers to one batch.
    """
    known = dict(call.model.named_parameters(remove_duplicate=False))
    if call.forward is not None or not call.repeatable or not all(name in known for name in names):
        return None
    once, twice = (_run(call, {}) for _ in range(2))
    each = {id(known[name]): name for name in names}.values()  # of tied ones, one name stands for all
    after = _run(call, {name: _nudged(known[name].detach()) for name in each})
    if not len(once) == len(twice) == len(after):
        return None
    if any(not torch.equal(once[at], twice[at]) for at in places):
        return None
    return any(not torch.equal(once[at], after[at]) for at in places)


def tensors_of(output: Any) -> list[Tensor]:
    """The floating tensors of a model's output, in its order: of a mapping, a tuple, an object, or the one."""
    parts = output.values() if isinstance(output, Mapping) else output
    parts = parts if isinstance(output, Mapping | tuple | list) else getattr(output, "__dict__", {}).values()
    found = [output] if isinstance(output, Tensor) else list(parts)
    return [part for part in found if isinstance(part, Tensor) and part.is_floating_point()]


def raw(call: Call) -> Any:
    """What the model gives when it is run once more, as it is."""
    if call.forward is not None:
        return call.forward(call.model, *call.args, **call.kwargs)
    return call.model(*call.args, **call.kwargs)


def _run(call: Call, instead: Mapping[str, Tensor]) -> list[Tensor]:
    with untouched(call.model), torch.no_grad():
        return tensors_of(functional_call(call.model, dict(instead), call.args, dict(call.kwargs)))


def _nudged(values: Tensor) -> Tensor:
    size = values.float().square().mean().sqrt()
    size = torch.where(size > 0, size, torch.ones_like(size))
    ends = torch.arange(values.numel(), device=values.device).view(values.shape) % 3 - 1
    return values + (NUDGE * size * ends).to(values.dtype)
