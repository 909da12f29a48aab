"""Schedules of another optimizer than the one that steps: made before the optimizer was made anew, and stepped on.

Only one that sets the rates of another optimizer object counts, of parameters that this one moves too. What wraps an
optimizer shares its groups, so that their rates change with the schedule; those who copy a rate by hand change it too.
"""

from __future__ import annotations

import weakref
from typing import Any

from torch.optim import Optimizer, lr_scheduler

from sightline.attach.alive import living


class LeftBehind:
    """Looked for at the first step of `optimizer`."""

    def __init__(self, optimizer: Optimizer) -> None:
        held = _held(optimizer)
        found = [one for one in living(lr_scheduler.LRScheduler) if _drives_other(one, optimizer)]
        self._found = [
            (weakref.ref(one), weakref.ref(other), one.last_epoch, _rates(one))
            for one in found
            if (other := _inner(one.optimizer)) is not None and (ids := _held(other)) and ids <= held
        ]
        self.ticks = 0

    def stepped(self, optimizer: Optimizer) -> None:
        """An optimizer takes a step: its schedule is not left behind."""
        self._found = [one for one in self._found if one[1]() is not optimizer]

    def look(self) -> int:
        """How often the one that is left behind advanced and set other rates, as far as was seen."""
        for ref, _, first, rates in self._found if len(self._found) == 1 else ():
            schedule = ref()
            ticks = getattr(schedule, "last_epoch", None)
            if isinstance(ticks, int) and ticks > first and _rates(schedule) != rates:
                self.ticks = ticks - first
        return self.ticks if self._found else 0


def _inner(given: Any) -> Optimizer | None:
    """Without a wrapper such as accelerate's."""
    inner = getattr(given, "optimizer", given)
    return inner if isinstance(inner, Optimizer) else None


def _drives_other(schedule: Any, optimizer: Optimizer) -> bool:
    other = _inner(getattr(schedule, "optimizer", None))
    return other is not None and other is not optimizer and other.param_groups is not optimizer.param_groups


def _held(optimizer: Optimizer) -> set[int]:
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


def _rates(schedule: Any) -> list[float]:
    return [float(rate) for rate in getattr(schedule, "_last_lr", None) or []]
