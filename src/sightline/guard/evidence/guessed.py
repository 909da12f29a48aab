"""Whether a model came to tell the classes of inputs apart that were shown again and again, or goes on guessing."""

from __future__ import annotations

from statistics import fmean

from sightline.guard.evidence.matches import MatchesSeen
from sightline.guard.evidence.strays import Stray

LONG, SHOWN = 100, 3  # steps; times an input came: a model that can learn its class has begun to by then
LATE, ROWS = 8, 256  # batches of the second half, and their rows
GUESSED = 0.55  # others below the own row: 0.5 by chance, more where classes are learnt, or rows by heart
DIFFERENT = 32  # inputs: a few may be examples of a form
REMEDY = (
    "print ten inputs beside their labels; shuffle, sort and filter both with one index: x[i] with y[i] (where they"
    " belong together, raise the rate until one batch is learnt by heart)"
)


def guessing(seen: MatchesSeen) -> Stray | None:
    """Inputs that are no noise came again and again, and are given their class as by chance."""
    late = [won for step, won in zip(seen.steps, seen.won, strict=True) if 2 * step >= seen.step]
    if seen.step < LONG or seen.passes < SHOWN or seen.different < DIFFERENT:
        return None
    if len(late) < LATE or len(late) * seen.rows < ROWS or fmean(late) > GUESSED:
        return None
    what = f"after {seen.step} steps a sample scores above {fmean(late):.0%} of the others for its own class, as by"
    what += f" chance: its inputs, which are no noise, came {seen.passes:.0f} times and tell nothing of it"
    return Stray(what, REMEDY, False, {"above": fmean(late), "different inputs": seen.different})
