"""Of what make an optimizer is: its groups and their settings, in a file and live."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

NEAR = 0.1  # of a rate that is set by hand, from one step to the next
CYCLED = ("betas", "momentum")  # which a one-cycle schedule moves


def optimizer_in(one: Mapping[str, Any]) -> dict[str, Any]:
    """Of an optimizer's state: its groups' settings, how many parameters have state, and how many steps it took."""
    states, groups = one.get("state"), one.get("param_groups")
    if not isinstance(states, Mapping) or not isinstance(groups, list) or not groups:
        return {}
    if not all(isinstance(group, Mapping) and isinstance(group.get("params"), list) for group in groups):
        return {}
    kept = [state for state in states.values() if isinstance(state, Mapping)]
    moments = sum(any(isinstance(t, Tensor) for name, t in state.items() if name != "step") for state in kept)
    found = (state.get("step") for state in kept)
    steps = [int(n) for n in found if isinstance(n, int | float) or (isinstance(n, Tensor) and n.numel() == 1)]
    return {"groups": [dict(group) for group in groups], "moments": moments, "steps": max(steps, default=0)}


def same_make(kept: Mapping[str, Any], optimizer: Optimizer) -> bool:
    """Whether it has the same groups, with the same settings."""
    groups = optimizer.param_groups
    if len(groups) != len(kept["groups"]):
        return False
    return all(_same_group(one, other) for one, other in zip(kept["groups"], groups, strict=True))


def _same_group(kept: Mapping[str, Any], live: Mapping[str, Any]) -> bool:
    if set(kept) != set(live) or len(kept["params"]) != len(live["params"]):
        return False
    cycled = CYCLED if "base_momentum" in live else ()
    plain = [name for name in live if name not in ("params", "lr", "initial_lr", *cycled) and is_plain(live[name])]
    if any(not is_plain(kept[name]) or as_list(kept[name]) != as_list(live[name]) for name in plain):
        return False
    if "initial_lr" in live:
        return float(kept["initial_lr"]) == float(live["initial_lr"])
    now, saved = (float(group.get("lr", 0.0)) for group in (live, kept))
    return abs(now - saved) <= NEAR * saved


def is_plain(value: Any) -> bool:
    """Whether it is a number, a text or nothing, or some of these in a row."""
    several = value if isinstance(value, list | tuple) else [value]
    return all(one is None or isinstance(one, int | float | str) for one in several)


def as_list(value: Any) -> Any:
    """Files may hold lists where there are tuples."""
    return list(value) if isinstance(value, tuple) else value


def rate_of(optimizer: Optimizer) -> float:
    """The highest rate that its groups were made with."""
    return highest(optimizer, "initial_lr", "lr")


def highest(optimizer: Optimizer, *names: str) -> float:
    """The highest rate of its groups, under the first of these names that each has."""
    found = ([group[name] for name in names if group.get(name) is not None] for group in optimizer.param_groups)
    return max((float(rates[0]) for rates in found if rates), default=0.0)


def moves(optimizer: Optimizer | None) -> int:
    """How many parameters it has moved, or moves at its first step: those with a gradient, or with a state."""
    if optimizer is None:
        return 0
    held = [p for group in optimizer.param_groups for p in group["params"]]
    return sum(p.requires_grad and (p.grad is not None or bool(optimizer.state.get(p))) for p in held)
