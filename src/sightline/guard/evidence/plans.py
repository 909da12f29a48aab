"""What the rates of a schedule say of its plan, where the schedule itself, a function of somebody's, does not."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, pairwise
from math import acos, atan2, cos, isclose, pi, sin

from sightline.guard.evidence.learning import PlateauSeen, ScheduleSeen

LEVELS = 3  # rates in a row: two fix a line, or a wave of known height, and the third proves it
EXACT = 1e-5  # relative: rates are computed in double precision, and their differences keep ten digits and more
TURN = 2  # rates that may be those before them again: a warm-up's last, and the first of the decay behind it
PIECES = 5  # differences of rates: two fix a wave of unknown height, the others prove it
LONGEST = 10_000_000  # ticks: a change that is too slow to be told from rounding has no end
ALMOST = 0.95  # of two counts that are the same, up to the last partial batch of an epoch
HALF = 0.5  # of a decay: a schedule that would go on for longer than the run has left out more than it did
FAR = 4  # times the run: nobody plans a warm-up of so many epochs; as many steps as the run has or fewer, many do
CUTS, DIFFERENT = 2, 4  # cuts and distinct numbers: by chance, four have no small denominator in common
RISEN, NEAR = 0.1, 0.05  # of a share: from the first to the best; a cut at one of the best
LARGEST, ROUNDED = 5000, 2e-7  # rows of an evaluation, and the rounding of a share in float32, several times
SAME = 0.05  # relative: two counts are of the same thing, up to the last partial batch of an epoch
TRIAL = 32  # steps: a shorter run may only show that the script works
OFTEN = 1.5  # times as many micro-batches as steps, at least
GRADUAL = 6  # rates one after another: a decay in stairs may end early by design


def implied_end(seen: ScheduleSeen) -> int | None:
    """After how many ticks a rate that falls on a straight line comes to 0, or one on half a wave to its lowest.

    None where the last rates do neither to the last digits, or the schedule did not advance once with each new rate.
    """
    levels = _levels(seen)
    left = _line(levels[-LEVELS:], 0.0) or _wave(levels[-LEVELS:], seen.base) or _bow(levels)
    return len(levels) - 1 + round(left) if left and left < LONGEST else None


def implied_warm_up(seen: ScheduleSeen) -> int | None:
    """After how many ticks a rate that has risen on a straight line from the start comes to its base."""
    levels = _levels(seen)
    left = _line(levels, seen.base) if seen.base and levels and levels[-1] < seen.base else None
    return len(levels) - 1 + round(left) if left and left < LONGEST else None


def restarts(seen: ScheduleSeen) -> tuple[int, ...]:
    """Steps, equally far apart, at which the schedule is made anew, or a rate set by hand falls to rise again.

    With its optimizer, where each was far from over: one that was over may be of a fold, or of a stage of its own.
    """
    rates, places = seen.rates, seen.replaced
    if seen.anew and seen.ticks:
        plan = seen.horizon or implied_end(seen) or implied_warm_up(seen) or 0
        even = len({b - a for a, b in pairwise((0, *seen.anew))}) == 1
        return seen.anew if even and plan >= seen.ticks / HALF and rates[0] != rates[-1] else ()
    if seen.scheduler is None:  # no object to follow: a rate set by hand
        falls = (n for n in range(1, len(rates) - 1) if rates[n] < rates[n - 1] / 2 and rates[n + 1] > rates[n])
        places = tuple(n for n in falls if isclose(rates[n], rates[0], rel_tol=EXACT))
    if not places or len({b - a for a, b in pairwise((0, *places))}) > 1:
        return ()
    begun = all(isclose(rates[n], rates[0], rel_tol=EXACT) for n in places)  # factors one on another round
    return places if begun and not isclose(rates[0], rates[places[0] - 1], rel_tol=EXACT) else ()


def early(seen: ScheduleSeen) -> bool:
    """Whether it advances between the backward pass and the optimizer's step, or had done so before the first one."""
    micro = seen.inside > seen.heard // 2  # in micro-batches: the last comes before the step
    first = not seen.restored and seen.first_tick is not None and seen.first_tick == max(1, seen.first_forwards)
    if micro:
        return False
    return seen.early > seen.heard // 2 or (first and seen.ticks is not None and seen.ticks >= len(seen.rates) - 1)


def unfinished(seen: ScheduleSeen) -> tuple[str, bool] | None:
    """What is left of the schedule when the run is over, and whether that is surely no trial run of a few steps.

    A warm-up in steps that was stepped once an epoch; or, in a run that took all the steps that its host planned, a
    decay that was stepped with every step, or a warm-up that such a run would have to be repeated for.
    """
    steps, ticks = len(seen.rates), seen.ticks
    if not seen.closed or seen.restored or ticks is None:
        return None
    rise = seen.rise if seen.rise and ticks >= LEVELS else 0
    warm, end = implied_warm_up(seen) or rise, seen.horizon or implied_end(seen) or 0
    if warm and FAR * ticks <= warm <= steps:
        return f"its {'first rise' if rise else 'warm-up'} takes {warm} steps, and it advanced {ticks} times", True
    if not seen.planned or not ALMOST * seen.planned <= steps:
        return None
    if ticks >= ALMOST * steps and end >= ticks / HALF and seen.rates[-1] >= HALF * max(seen.rates):
        return f"it is planned for {end} steps", True
    rising = all(a <= b for a, b in pairwise(seen.rates)) and seen.rates[0] < seen.rates[-1]
    if rising and steps >= TRIAL and warm >= FAR * steps:
        return f"its warm-up takes {warm} steps, and the run has {steps}", True
    return ("it is still warming up", False) if rising and seen.rates[-1] <= HALF * (seen.base or 0.0) else None


def too_often(seen: ScheduleSeen) -> str | None:
    """Whether a decay that was planned for all optimizer steps was over long before the last, as it advanced with each
    micro-batch: after as many of these as the run has steps. Its floor need not be 0."""
    steps, ticks, rates = len(seen.rates), seen.ticks, seen.rates
    if not seen.closed or seen.restored or not ticks or ticks < steps * OFTEN:
        return None
    if seen.inside <= seen.heard // 2 or abs(ticks - seen.forwards) > SAME * seen.forwards:
        return None
    last = next((n for n in range(steps - 1, 0, -1) if rates[n] != rates[n - 1]), 0)
    top = max(range(steps), key=lambda n: rates[n])
    falls = all(a > b for a, b in pairwise(rates[top : last + 1])) and last - top >= GRADUAL
    each = ticks / steps
    if not falls or abs(last * each - steps) > SAME * steps + each:
        return None
    return f"the schedule is over after {last} of {steps} steps, for it advanced {ticks} times in them"


def wrong_way(seen: PlateauSeen) -> str | None:
    """Whether a schedule that wants less was given shares (of hits, say) that rose, and cut the rate at the best ones.

    Shares are told by their values: all of them are whole numbers over one and the same whole number. A share of errors
    may be wanted to be less, and that is far from rising.
    """
    values = seen.values if max(seen.values) <= 1 else tuple(value / 100 for value in seen.values)
    if seen.mode != "min" or len(seen.cuts) < CUTS or len(set(values)) < DIFFERENT or not _shares(values):
        return None
    best = [max(values[:place]) for place in seen.cuts if place]
    cut = [values[place] for place in seen.cuts if place]
    if max(values) - values[0] < RISEN or any(value < top - NEAR for value, top in zip(cut, best, strict=True)):
        return None
    rose = f"from {values[0]:.3g} to {max(values):.3g}"
    return f"it waits for less of a share that rose {rose}, and cut the rate {len(cut)} times"


def _shares(values: Sequence[float]) -> bool:
    if min(values) < 0 or max(values) > 1:
        return False
    for whole in range(2, LARGEST):
        if all(abs(value * whole - round(value * whole)) <= ROUNDED * whole for value in values):
            return True
    return False


def past(s: ScheduleSeen) -> bool:
    """Whether a cosine was stepped past its end, and rises again: no warm-up, for it had come down before."""
    if not s.periodic or not s.horizon or s.ticks is None or s.ticks <= (1 + SAME) * s.horizon + 1:
        return False
    first = next((n for n, (a, b) in enumerate(pairwise(s.rates)) if b < a), 0)
    lowest = min(range(first, len(s.rates)), key=lambda n: s.rates[n])
    return max(s.rates[lowest:]) >= 2 * s.rates[lowest] and max(s.rates[lowest:]) != s.rates[lowest]


def _levels(seen: ScheduleSeen) -> list[float]:
    """The rates one after another, where each is that of a tick of its own; [] where that is not so, or of too few."""
    levels = [rate for rate, _ in groupby(seen.rates)]
    single = seen.ticks is not None and abs(len(levels) - 1 - seen.ticks) <= TURN
    return levels if single and len(levels) >= LEVELS else []


def _line(rates: list[float], goal: float) -> float | None:
    """Ticks from the last rate to the goal, where the rates come nearer to it by equal amounts."""
    steps = [abs(a - goal) - abs(b - goal) for a, b in pairwise(rates)]
    if not steps or min(steps) <= 0 or not _equal(steps):
        return None
    return abs(rates[-1] - goal) * len(steps) / sum(steps)


def _wave(rates: list[float], base: float | None) -> float | None:
    """The same for base / 2 x (1 + cos(x)), whatever the x of the first rate: three points of a wave give its step."""
    if not rates or not base or max(rates) > base * (1 + EXACT) or min(rates) < 0:
        return None
    places = [acos(max(-1.0, min(1.0, 2 * rate / base - 1))) for rate in rates]
    steps = [b - a for a, b in pairwise(places)]
    if min(steps) <= 0 or not _equal(steps):
        return None
    return (pi - places[-1]) * len(steps) / sum(steps)


def _bow(rates: Sequence[float]) -> float | None:
    """Ticks from the last rate to the lowest of a falling half wave, whatever its height and its floor.

    Of equally distant points of a wave, the sum of two differences beside one is that one times 2 cos(distance).
    """
    top = max(range(len(rates)), key=lambda n: rates[n], default=0)
    apart = (len(rates) - 1 - top) // PIECES
    if apart < 1:
        return None
    points = [rates[len(rates) - 1 - apart * n] for n in range(PIECES, -1, -1)]
    falls = [b - a for a, b in pairwise(points)]
    if max(falls) >= 0:
        return None
    cosines = [(a + c) / (2 * b) for a, b, c in zip(falls, falls[1:], falls[2:], strict=False)]
    if not -1 < cosines[0] < 1 or max(cosines) - min(cosines) > EXACT * (1 - cosines[0]):
        return None
    distance = acos(sum(cosines) / len(cosines))
    phase = atan2(sin(distance), falls[-1] / falls[-2] - cos(distance)) + distance  # of the last difference
    return ((pi - phase) / distance - 0.5) * apart if 0 < phase < pi else None


def _equal(steps: list[float]) -> bool:
    return all(isclose(step, steps[0], rel_tol=EXACT) for step in steps)
