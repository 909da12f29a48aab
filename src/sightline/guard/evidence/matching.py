"""Whether pairs of inputs never came to find each other, though they were dealt anew or shown again and again."""

from __future__ import annotations

from statistics import fmean

from sightline.guard.evidence.guessed import guessing
from sightline.guard.evidence.matches import KinSeen, MatchesSeen
from sightline.guard.evidence.strays import Stray

LATE, GUESSED = 8, 0.57  # batches of the second half; others below the own partner: 0.5 by chance, a little by heart
AGAIN, CHANCE, FEW = 64, 2.0, 3  # inputs that came back; times more than chance that keep their partner, and some
NOTHING = 5.0  # standard deviations: by chance the largest of some dozens reaches 3, what is learnt has 20
STEPS = 48
GRASPED, LAST, LEAST = 0.75, 4, 3  # others below the own row before any came again; the last batches of then
LONG, SHOWN = 150, 8  # steps; times a batch's pairs came back: a model that can learn them has begun to by then


def never_found(seen: MatchesSeen) -> tuple[float, bool] | None:
    """(share of the others that score below the own partner, whether partners were dealt anew); None where it learns.

    A fixed wrong pairing looks like data without anything to learn, so that it is told of natural inputs alone.
    """
    late = [won for step, won in zip(seen.steps, seen.won, strict=True) if 2 * step >= seen.step]
    if seen.again < AGAIN or len(late) < LATE or fmean(late) > GUESSED:
        return None
    dealt = seen.kept <= CHANCE * seen.expected + FEW
    if not (dealt or (seen.natural and seen.step >= LONG and seen.again >= SHOWN * seen.rows)):
        return None
    return fmean(late), dealt


def unrelated(seen: KinSeen | None, matches: MatchesSeen | None) -> Stray | None:
    """Rows that are alike in one of both are not alike in the other, and no model told what they have in common."""
    if seen is None or seen.told > NOTHING or seen.step < STEPS or grasped(matches):
        return None
    what = f"inputs have nothing to do with what is taught beside them: over {seen.rows} different rows, those that are"
    what += f" alike in the one are no more alike in the other than by chance ({seen.told:.1f} standard deviations)"
    remedy = "print ten inputs beside their labels; shuffle, sort and filter both with one index: x[i] with y[i]"
    return Stray(what, remedy, False, {"standard deviations": seen.told, "rows": seen.rows})


def grasped(seen: MatchesSeen | None) -> bool:
    """Whether the classes of samples were told apart before any came again: nothing of that is learnt by heart."""
    if seen is None or not seen.different:
        return False
    first = [won for step, won in zip(seen.steps, seen.won, strict=True) if step * seen.passes <= seen.step][-LAST:]
    return len(first) >= LEAST and fmean(first) > GRASPED


def parted(seen: MatchesSeen | None) -> Stray | None:
    """The same in words."""
    if seen is not None and seen.different:
        return guessing(seen)
    if seen is None or (found := never_found(seen)) is None:
        return None
    won, dealt = found
    what = f"after {seen.step} steps a partner scores above {won:.0%} of the others, as by chance"
    what += f"; {seen.again - seen.kept} of {seen.again} came back with another one" if dealt else ""
    remedy = "shuffle, sort and filter both inputs of a pair with one index: images[i] with captions[i]"
    return Stray(what, remedy, dealt, {"with their partner": seen.kept, "expected if dealt anew": seen.expected})
