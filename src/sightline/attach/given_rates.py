"""The learning rates that the groups of an optimizer were made with, before any schedule set others."""

from __future__ import annotations

import weakref

from torch import nn
from torch.optim import Optimizer

_GIVEN: weakref.WeakKeyDictionary[Optimizer, list[float]] = weakref.WeakKeyDictionary()


def note(optimizer: Optimizer) -> None:
    """An optimizer was just given its last group."""
    _GIVEN.setdefault(optimizer, []).append(_rate(optimizer.param_groups[-1]))


def given_rates(optimizer: Optimizer, model: nn.Module) -> dict[int, float]:
    """Group -> its rate, of the groups that parts of `model` learn in; {} where nobody has seen them being made, or all
    have one."""
    known, groups = _GIVEN.get(optimizer, []), optimizer.param_groups
    if len(known) != len(groups) or len(set(known)) < 2:
        return {}
    learning = {id(p) for p in model.parameters() if p.requires_grad}
    learns = [any(id(p) in learning for p in group["params"]) for group in groups]
    return {place: rate for place, rate in enumerate(known) if rate > 0 and learns[place]}


def empty_rates(optimizer: Optimizer) -> tuple[float, ...]:
    """Those of groups without a parameter."""
    return tuple(_rate(group) for group in optimizer.param_groups if not group["params"])


def _rate(group: dict[str, object]) -> float:
    """0 where the optimizer finds its own."""
    return float(rate) if (rate := group.get("lr")) is not None else 0.0  # type: ignore[arg-type]
