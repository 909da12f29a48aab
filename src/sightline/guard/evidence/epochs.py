"""How a run's steps fit its epochs: whether those who planned it rounded the steps of an epoch as the loop does."""

from __future__ import annotations

from itertools import pairwise

from sightline.guard.evidence.learning import ScheduleSeen
from sightline.guard.evidence.loading import LoaderSeen

ENDED = 1.5  # over the number of steps, and of the largest rate: a linear decay ends at 1, a cosine below
FEW = 20  # steps an epoch: a limit that somebody chose by hand is a multiple of fewer by chance
SHARE, LEAST = 0.05, 4  # of the steps, and steps: rounding once a run costs one or two, rounding every epoch more


def misrounded(schedule: ScheduleSeen, loader: LoaderSeen) -> str | None:
    """What came of rounding an epoch's steps up in one place and down in the other; None where it fits.

    A batches an optimizer step, B batches an epoch. Both numbers must fit the run to the last batch, over all epochs.
    """
    batches, each, starts, steps = loader.batches, schedule.first_forwards, loader.starts, len(schedule.rates)
    if not schedule.closed or schedule.restored or not batches or each < 2 or not batches % each or len(starts) < 2:
        return None
    down, begun = batches // each, len(starts)
    taken = {after - before for before, after in pairwise(starts)}
    if taken == {down + 1}:
        return _cut_off(schedule, steps, down, begun, starts[-1], batches)
    if schedule.forwards == begun * batches and steps == begun * down and schedule.horizon == begun * (down + 1):
        if schedule.horizon - steps < max(LEAST, SHARE * steps):
            return None
        return (
            f"the schedule is planned for {down + 1} steps an epoch ({schedule.horizon}), and the loop takes {down}"
            f" ({steps}): the rate never comes to its end"
        )
    return None


def _cut_off(s: ScheduleSeen, steps: int, down: int, begun: int, last: int, batches: int) -> str | None:
    """Epochs of `down` + 1 steps, and an end in the middle of one, where epochs of `down` steps would end.

    The schedule ends there too, so the end was planned; and not by a round number that happens to fit.
    """
    inside, epochs = steps - last, steps // down
    whole = s.forwards == (begun - 1) * batches + inside * s.first_forwards and inside <= down
    over = s.horizon == steps or 0 < s.rates[-1] <= ENDED / steps * max(s.rates)
    by_hand = down < FEW and (steps % 5 == 0 or not steps & (steps - 1))
    if not whole or not over or by_hand or steps % down or epochs < max(2, begun):
        return None
    return (
        f"the run ends in the middle of an epoch, after {steps} steps: {epochs} epochs of {down} steps were planned,"
        f" and an epoch takes {down + 1}"
    )
