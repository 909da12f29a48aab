"""Where in its plan a schedule stood when an optimizer was saved, told by the rate that it had set by then.

For files that hold the optimizer and not its schedule. Only schedules whose rate follows from their place are asked:
those of torch that say so, and rules of the script that keep nothing. No step is taken, and nothing is written to.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer

from sightline.attach.foreseen import rates_at
from sightline.attach.onlookers.schedule import horizon, schedules_of

STARTED = 1  # of a schedule: some are stepped before the optimizer is
EXACT = 1e-3  # relative: rates that are made from one another drift from their formula, by less than a step moves them
OTHER = 0.2  # of the rate that is due: restarted schedules are as near at places that are alike, and do no harm there


@dataclass(eq=False)
class Restarted:
    """A schedule at its beginning, whose optimizer was saved at `place` of it, with the rate `saved`.

    `schedules`: with others like it that are not in use any more, if the script made some.
    """

    schedules: Sequence[weakref.ref[Any]]
    place: int
    saved: float
    steps: int = 0

    def tells(self, optimizer: Optimizer) -> str | None:
        """One step later: what it does to the rate, once that is another one; None where it is set by another."""
        self.steps += 1
        alive = [schedule for ref in self.schedules if (schedule := ref()) is not None]
        if not alive:
            return None
        schedule = max(alive, key=lambda one: one.last_epoch)
        at, now = schedule.last_epoch, _rate(optimizer.param_groups[0])
        if not 0 <= at <= STARTED + self.steps:
            return None
        due, anew, first = (rates_at(schedule, place) for place in (self.place + at, at, 0))
        if not due or not anew or not first or abs(now - due[0]) <= OTHER * max(now, due[0]):
            return ""
        along = self.saved * anew[0] / first[0] if first[0] else anew[0]  # some make each rate of the one before
        if not _near(now, anew[0]) and not (at and _near(now, along)):
            return ""
        return (
            f"it began anew, where it had come to {self.place} when its optimizer was saved (the checkpoint does not"
            f" hold it): the learning rate is {now:.3g}, and {due[0]:.3g} is due"
        )


def restarted(kept: Mapping[str, Any], optimizer: Optimizer, numbers: Sequence[int]) -> Restarted | None:
    """The schedule of an optimizer whose saved groups are `kept`, if it begins anew amid its plan.

    `numbers`: of steps or epochs, the likeliest first, one of which tells its place, or one beside it.
    """
    groups, schedules = kept["groups"], schedules_of(optimizer)
    if any(one.last_epoch > STARTED for one in schedules) or not all("initial_lr" in group for group in groups):
        return None
    saved = [_rate(group) for group in groups]
    if all(_near(rate, float(group["initial_lr"])) for rate, group in zip(saved, groups, strict=True)):
        return None
    for place in dict.fromkeys(number + more for number in numbers for more in (0, -1, 1)):
        amid = (_same(rates_at(one, place), saved) and not _over(one, place) for one in schedules)
        if place > STARTED and schedules and all(amid):
            return Restarted([weakref.ref(one) for one in schedules], place, saved[0])
    return None


def _over(schedule: Any, place: int) -> bool:
    """Whether the plan had come to its end, where another cycle may begin."""
    end = horizon(schedule)
    return place >= end - 1 if end is not None else _same(rates_at(schedule, 2 * place + 1), rates_at(schedule, place))


def _rate(group: Mapping[str, Any]) -> float:
    return float(group.get("lr", 0.0))


def _near(one: float, other: float) -> bool:
    return abs(one - other) <= EXACT * max(abs(one), abs(other))


def _same(one: Sequence[float] | None, other: Sequence[float] | None) -> bool:
    return bool(one and other) and len(one) == len(other) and all(map(_near, one, other))  # type: ignore[arg-type]
