"""Lines of a plot: broken at stages, smoothed, and thinned so that no spike is lost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sightline.report.values import TOWERS, TrainPoint

LIMIT = 2000  # drawn points of one line; the plots are at most about 1,000 px wide
WINDOW = 0.01  # a smoothed line looks about this fraction of the logged steps either way


@dataclass(slots=True)
class Line:
    """Points of one line. `None` as y breaks the line; `logged` counts the finite values before thinning."""

    x: list[float] = field(default_factory=list)
    y: list[float | None] = field(default_factory=list)
    logged: int = 0

    def __bool__(self) -> bool:
        return self.logged > 0

    def values(self) -> list[float]:
        """The finite values."""
        return [value for value in self.y if value is not None]


def line(
    points: Sequence[TrainPoint],
    read: Callable[[TrainPoint], float | None],
    at: Callable[[TrainPoint], float] = lambda point: point.step,
) -> Line:
    """One value of each point over `at`, with a break where a stage begins. What is not finite is a break too."""
    made = Line()
    for before, point in zip([None, *points], points, strict=False):
        if before is not None and before.stage != point.stage:
            made.x.append(at(point))
            made.y.append(None)
        value = read(point)
        made.x.append(at(point))
        made.y.append(value if value is not None and math.isfinite(value) else None)
    made.logged = len(made.values())
    return made


def towers_in(maps: Iterable[Mapping[str, float]]) -> list[str]:
    """Every tower that has a value anywhere: the three known ones in their order, then others by name."""
    seen = {tower for values in maps for tower in values}
    return [tower for tower in TOWERS if tower in seen] + sorted(seen - set(TOWERS))


def smooth(raw: Line, weights: Sequence[float] | None = None, *, geometric: bool = False) -> Line:
    """A mean around each point, weighted by `weights` and by exp(-distance): it looks both ways, so it does not lag.

    It stops at breaks. Weighted values and weights are summed apart and then divided: no bias at the ends. On a log
    axis a `geometric` mean (of values above 0) is the one that runs through the middle of what is seen.
    """
    if geometric:
        logs = smooth(Line(raw.x, [math.log(y) if y else None for y in raw.y], raw.logged), weights)
        return Line(list(raw.x), [None if y is None else math.exp(y) for y in logs.y], raw.logged)
    keep = 1 - 1 / max(3.0, WINDOW * len(raw.x))
    heavy = weights or [1.0] * len(raw.y)
    past, future = _decayed(raw.y, heavy, keep), _decayed(raw.y[::-1], heavy[::-1], keep)[::-1]
    made = Line(x=list(raw.x), logged=raw.logged)
    for value, weight, (top, bottom), (more_top, more_bottom) in zip(raw.y, heavy, past, future, strict=True):
        total = bottom + more_bottom - weight  # the point itself is in both sums
        made.y.append(None if value is None else (top + more_top - value * weight) / total if total else value)
    return made


def _decayed(values: Sequence[float | None], weights: Sequence[float], keep: float) -> list[tuple[float, float]]:
    """At each place: the decayed sums of weighted values and of weights so far, begun anew after each break."""
    sums = []
    top = bottom = 0.0
    for value, weight in zip(values, weights, strict=True):
        top, bottom = (0.0, 0.0) if value is None else (keep * top + value * weight, keep * bottom + weight)
        sums.append((top, bottom))
    return sums


def thin(full: Line, limit: int = LIMIT) -> Line:
    """At most about `limit` points: of each of `limit` / 2 equal runs of points, the lowest and the highest.

    Breaks are kept. A line of `limit` points or fewer is unchanged.
    """
    if len(full.x) <= limit:
        return full
    made = Line(logged=full.logged)
    size = math.ceil(2 * len(full.x) / limit)
    for start in range(0, len(full.x), size):
        places = range(start, min(start + size, len(full.x)))
        finite = [(value, place) for place in places if (value := full.y[place]) is not None]
        kept = {min(finite)[1], max(finite)[1]} if finite else set()
        breaks = [place for place in places if full.y[place] is None]
        kept |= set(breaks[:1])
        for place in sorted(kept):
            made.x.append(full.x[place])
            made.y.append(full.y[place])
    return made
