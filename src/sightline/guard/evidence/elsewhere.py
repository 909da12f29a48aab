"""Numbers that were taught of one input and come back with another one, in words."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import pairwise

from sightline.guard.evidence.loading import FeedSeen
from sightline.guard.evidence.strays import Stray

SCALES = 0.5, 1.0  # of a squared error, meant over all outputs: with its 2, or halved (a Huber loss near its target)
SAME = 4e-6  # of the largest number: float32 rounds output and gradient by 1e-7
AGAIN, SHARE = 32, 0.25  # inputs that came back; of these, with a number of another: a Huber loss hides the far ones
KEPT = 0.25  # of these: inputs that kept their own number
CHANCE, OVER = (
    4,
    16,
)  # numbers as near to another's by chance, counted a little beside them, times that and so many more
SINGLE = 0.9  # of the inputs have a number that no other has: steps of a scale, or returns of a game, are shared
BESIDE = 40  # of these distances


def elsewhere(feed: FeedSeen | None) -> Stray | None:
    """Inputs that come back with a number of another one: a squared error shows them, the output less its gradient.

    Numbers that are drawn anew, or hang on anything else, are not found among those of before.
    """
    if feed is None:
        return None
    for scale in SCALES:
        first, again = _numbers(feed, scale)
        values = sorted(first.values())
        if len(again) < AGAIN or len(values) < AGAIN:
            continue
        near = SAME * max(abs(values[0]), abs(values[-1]))
        if sum(b - a > near for a, b in pairwise(values)) < SINGLE * (len(values) - 1):
            continue
        own = sum(abs(first[row] - value) <= near for row, value in again)
        moved = [value for row, value in again if abs(first[row] - value) > near]
        theirs = sum(_holds(values, value, near) for value in moved)
        chance = sum(_holds(values, value + BESIDE * near, near) for value in moved)
        if theirs >= max(SHARE * len(again), CHANCE * chance + OVER) and own <= KEPT * theirs:
            what = f"{theirs} of {len(again)} inputs that came back were taught the number of another input"
            remedy = "shuffle, sort and filter inputs and labels with one index (x[i], y[i]), or keep pairs in one row"
            return Stray(what, remedy, True, {"came back": len(again), "with their own": own, "by chance": chance})
    return None


def _numbers(feed: FeedSeen, scale: float) -> tuple[dict[int, float], list[tuple[int, float]]]:
    """Of each input, the number that it was taught first; and those with which inputs came back in later batches."""
    first: dict[int, float] = {}
    again: list[tuple[int, float]] = []
    for rows in _rows(feed, scale):
        again += [(row, value) for row, value in rows if row in first]
        for row, value in rows:
            first.setdefault(row, value)
    return first, again


def _rows(feed: FeedSeen, scale: float) -> Iterator[list[tuple[int, float]]]:
    for batch in feed.batches:
        pairs = zip(batch.inputs, batch.pulls, strict=False)
        yield [(row, output - scale * grad) for row, (output, grad) in pairs if grad]


def _holds(ordered: Sequence[float], value: float, near: float) -> bool:
    at = bisect_left(ordered, value - near)
    return at < len(ordered) and ordered[at] <= value + near
