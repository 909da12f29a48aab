"""What a series of numbers did: the level it is at, and jumps that its own scatter does not explain."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

SIGMA = 1.4826  # times the median absolute deviation: the standard deviation, where values are normal
WINDOW = 32  # values before a jump: enough for a median that three wild ones do not move
FEWEST = 16  # of them, before a jump is told from the noise at the start of a run
FLAT = 0.98  # ratio of a loss now to the loss before: above, learning has stopped
LASTS = 3  # values in a row: one wild batch is over with the next, a step that broke the weights is not


def levels(values: Sequence[float], parts: int = 3) -> tuple[float, ...]:
    """The median of each of `parts` equal parts of the series, oldest first (an odd rest belongs to the first)."""
    size = len(values) // parts
    cuts = [len(values) - size * (parts - place) for place in range(parts)]
    cuts[0] = 0
    return tuple(median(values[start : start + size or 1]) for start in cuts)


def falling(values: Sequence[float]) -> bool:
    """Whether the last quarter is still lower than the quarter before."""
    n = len(values) // 4
    return n > 0 and median(values[-n:]) < FLAT * median(values[-2 * n : -n])


def robust_z(value: float, before: Sequence[float], least: float = 0.01) -> float:
    """How many standard deviations `value` lies above the median of `before`; both are robust to outliers.

    `least`: the scatter is taken to be at least this share of the median (a series that repeats itself has none).
    """
    middle = median(before)
    scatter = SIGMA * median([abs(one - middle) for one in before])
    return (value - middle) / max(scatter, least * abs(middle), 1e-12)


def spikes(values: Sequence[float], jump: float = 8.0, stays: float = 4.0, rise: float = 1.2) -> tuple[int, ...]:
    """Places where the series jumps `jump` deviations and `rise` times above what was usual, and stays up for a while.

    What follows within the window of a spike is a part of it.
    """
    found: list[int] = []
    place = FEWEST
    while place + LASTS <= len(values):
        before, after = values[max(0, place - WINDOW) : place], values[place : place + LASTS]
        # the cheap half of the test first: nearly all places fail it
        if min(after) > rise * median(before) and _high(after, before, jump, stays):
            found.append(place)
            place += FEWEST
        place += 1
    return tuple(found)


def _high(after: Sequence[float], before: Sequence[float], jump: float, stays: float) -> bool:
    return robust_z(after[0], before) > jump and all(robust_z(one, before) > stays for one in after)
