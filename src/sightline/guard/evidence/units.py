"""In which units a schedule is planned, and in which the loop steps it, where the two are not the same."""

from __future__ import annotations

from itertools import pairwise

from sightline.guard.evidence.learning import ScheduleSeen
from sightline.guard.evidence.loading import LoaderSeen
from sightline.guard.evidence.plans import SAME, implied_end

STEPS = 8  # a plan of fewer fits many a count by chance


def miscounted(s: ScheduleSeen) -> tuple[str, str] | None:
    """The run is over, and the plan fits another count than the one it was stepped by: what, and what to do."""
    steps, ticks, plan = len(s.rates), s.ticks, s.horizon or implied_end(s) or s.foreseen
    if not s.closed or ticks is None or not plan or plan < STEPS or s.restored or ticks > plan / 2:
        return None
    for unit, count in {"optimizer steps": steps, "micro-batches": s.forwards}.items():
        if abs(plan - count) <= SAME * count and count > ticks:
            done = f"it advanced {ticks} times in {steps} optimizer steps"
            fix = f"count as it is stepped: plan {ticks} steps instead of {plan}, or step it once in all {unit}"
            return f"the schedule is planned in {unit} ({plan}), but {done}", fix
    return None


def never_stepped(s: ScheduleSeen, loader: LoaderSeen) -> tuple[str, str] | None:
    """A schedule that was there at the first step, and that nobody has called since, over the end of an epoch."""
    idle = s.called == s.ticks == s.first_tick == 0 and len(set(s.rates)) == 1
    if not idle or not s.closed or s.restored or s.replaced or not _whole(s, loader):
        return None
    what = f"the run is over, and scheduler.step() was never called: {s.scheduler} stands where it began"
    return what, "call scheduler.step() after each optimizer.step() or epoch, as its plan counts"


def _whole(s: ScheduleSeen, loader: LoaderSeen) -> bool:
    """Whether the optimizer took all the run's steps, and another epoch began behind one that was whole."""
    alone, batches = len(s.rates) >= (1 - SAME) * s.step, loader.batches or STEPS
    return alone and any((b - a + 1) * max(1, s.first_forwards) >= batches for a, b in pairwise(loader.starts))
