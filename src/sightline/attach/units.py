"""Numbers that a model says in the unit of its labels, and that a metric judges in two: it converts one side alone.

The labels themselves, as predictions, are no perfect ones then; and labels brought into another unit are, which is far
from all that the model says. That other unit is found by asking: an error of one number is 0 where it falls to, in a
line or as its square; what is 1 less a sum of squares is a parabola. Or it is a log, or what a log was taken of.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

ROWS, VALUES = 32, 9  # numbers that are compared, and different ones among the labels, at least
KNOWN, SIGMAS = 0.5, 6.0  # correlation of predictions and labels, and how far that is from none
CALIBRATED = (0.5, 2.0)  # of the labels' part in which predictions say more: what they rise by
NEAR = 0.25  # of the labels' deviation: between their mean and the predictions'
FAR, APART = 4.0, 2.0  # another unit is that many times as large, or its mean that many deviations away
NOUGHT, LESS = 1e-3, 0.02  # of the error of the truth, and of others': what rounding of a large offset leaves
WHOLE, SHORT = 1e-3, 0.99  # a share of 1, and what is none
STEPS = 5  # towards the number at which an error is 0
POINTS = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1), (1, 1))  # of a parabola: its middle, four beside it, a corner
SAYS = "labels in another unit ({}), which predictions are not in"
TINY = 1e-6  # what is no error
WAYS = ((0.1, 0.2), (-0.1, -0.2))  # deviations by which labels are put off
GROWS = 1.5  # an error on twice that way: it does by 2, and what is squared by 4
SHIFTS = (1, 2, 3)  # rows by which predictions are moved on, to spoil them

Score = Callable[[Tensor, Tensor], Mapping[str, float]]
Given = Callable[..., Mapping[str, float]]  # of predictions, and of other labels where there are any
FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "log of them": torch.log,
    "log1p of them": torch.log1p,
    "log10 of them": torch.log10,
    "exp of them": torch.exp,
    "expm1 of them": torch.expm1,
    "powers of 10": lambda values: 10**values,
}


@dataclass(frozen=True)
class OneSided:
    """`truth`: what the metric gives for the labels; `spoilt`: for others', in the unit `says`, in which they would be
    `perfect`. `early`: predictions are less wide than they would be there, where training might still bring them.
    """

    truth: float
    spoilt: tuple[float, ...]
    perfect: float
    says: str
    early: bool = False


def one_sided(pred: Tensor, target: Tensor, score: Score) -> dict[str, OneSided]:
    """By the name of the number: of a metric that is perfect for labels in another unit than predictions come in."""
    if not speaks(pred, target):
        return {}
    like = target.reshape(pred.shape).double()

    def given(these: Tensor, those: Tensor = target) -> Mapping[str, float]:
        with contextlib.suppress(ArithmeticError, RuntimeError, ValueError):  # its own word on what is out of range
            return score(these.to(pred.dtype), those)
        return {}

    truth = given(like)
    short = [name for name, value in truth.items() if abs(value) > TINY and abs(value - 1) > WHOLE]
    for says, form in _forms(like, target, given, short) if short else ():
        values = form(like)
        if bool(values.isfinite().all()) and _elsewhere(pred.double(), like, values):
            seen = _Seen(given, truth, values)
            if found := {name: one for name in short if (one := seen.told(name, SAYS.format(says)))}:
                early = float(values.std()) > min(float(pred.double().std()), float(like.std()))
                return {name: replace(one, early=early) for name, one in found.items()}
    return {}


def speaks(pred: Tensor, target: Tensor) -> bool:
    """Whether predictions are in the unit of the labels: they rise with these, by as much, and have their mean."""
    if not (pred.is_floating_point() and target.is_floating_point()) or pred.squeeze().shape != target.squeeze().shape:
        return False
    said, wanted = pred.double().reshape(-1), target.double().reshape(-1)
    if len(said) < ROWS or not bool((said.isfinite() & wanted.isfinite()).all()):
        return False
    if len(wanted.unique()) < VALUES or not float(said.std()) > 0:
        return False
    both = ((said - said.mean()) * (wanted - wanted.mean())).mean()
    known = float(both / (said.std() * wanted.std()))
    rises = float(both / said.var())
    close = float((said.mean() - wanted.mean()).abs() / wanted.std()) <= NEAR
    return known >= max(KNOWN, SIGMAS / len(said) ** 0.5) and CALIBRATED[0] <= rises <= CALIBRATED[1] and close


def _elsewhere(pred: Tensor, like: Tensor, values: Tensor) -> bool:
    """Whether predictions and labels are far from that unit: by its size, or by its mean."""
    width, spreads = float(values.std()), (float(pred.std()), float(like.std()))
    apart = float((pred.mean() - values.mean()).abs())
    sized = all(one * FAR <= width for one in spreads) or all(width * FAR <= one for one in spreads)
    return width > 0 and (sized or apart >= APART * max(*spreads, width))


class _Seen:
    """What a metric gives for labels in that unit: as they are, of others, and some way off to both sides."""

    def __init__(self, given: Given, truth: Mapping[str, float], values: Tensor):
        self._truth, self._best = truth, given(values)
        self._worse = [given(values.roll(by, 0)) for by in SHIFTS]
        self._off = [[given(values + way * float(values.std())) for way in ways] for ways in WAYS]

    def told(self, name: str, says: str) -> OneSided | None:
        """Of one number: whether it is perfect there alone, and worse the further from there."""
        if not all(name in one for one in (self._best, *self._worse, *self._off[0], *self._off[1])):
            return None
        truth, best, spoilt = self._truth[name], self._best[name], tuple(one[name] for one in self._worse)
        off = [(near[name], far[name]) for near, far in self._off]
        if min(truth, *spoilt) > 0 and 0 <= best <= min(NOUGHT * truth, LESS * min(spoilt)):
            away = all(0 < near * GROWS <= far for near, far in off)
            return OneSided(truth, spoilt, 0.0, says) if away else None
        whole = abs(best - 1) <= WHOLE and max(truth, *spoilt) < SHORT
        away = all(best > near > far for near, far in off)
        return OneSided(truth, spoilt, 1.0, says) if whole and away else None


# --- the other unit --------------------------------------------------------------------------------------------------


def _forms(
    like: Tensor, target: Tensor, score: Given, names: list[str]
) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
    """(what it is, how labels get there): logs and the like, and what the metric's numbers point to."""
    yield from FORMS.items()
    for name in names:
        unit = _by_constants(like, target, score, name) or _by_parabola(like, score, name)
        if unit is not None and unit[0] > 0:
            yield "{:.4g} times them {:+.4g}".format(*unit), functools.partial(_line, *unit)


def _line(factor: float, offset: float, rows: Tensor) -> Tensor:
    return factor * rows + offset


def _by_constants(like: Tensor, target: Tensor, score: Given, name: str) -> tuple[float, float] | None:
    """Of an error: the numbers at which it is 0 where all labels are the least, and where all are the greatest."""
    low, high = float(like.min()), float(like.max())

    def root(value: float) -> float | None:
        labels = torch.full_like(target, value)
        return _root(lambda n: score(torch.full_like(like, n), labels).get(name, -1.0), value, (high - low) / 8)

    if (first := root(low)) is None or (last := root(high)) is None:
        return None
    factor = (last - first) / (high - low)
    return factor, first - factor * low


def _root(error: Callable[[float], float], start: float, step: float) -> float | None:
    """Where an error is 0 that falls to it in a line, or as its square; None for what is no error."""
    here = start
    first = value = error(start)
    for _ in range(STEPS):
        beyond = error(here + step)
        if min(value, beyond) < 0:
            return None
        if value in (0, beyond):
            break
        ways = [here + step * value / (value - beyond), here + step * value**0.5 / (value**0.5 - beyond**0.5)]
        best, place = min((error(way), way) for way in ways)
        if not 0 <= best < value:
            break
        here, value, step = place, best, step / 8
    return here if 0 <= value <= NOUGHT * first else None


def _by_parabola(like: Tensor, score: Given, name: str) -> tuple[float, float] | None:
    """Of what is a sum of squares, or 1 less one: the factor and offset at which it is least, or greatest."""
    middle, width = float(like.mean()), float(like.std())
    rows = (like - middle) / width

    def at(point: Tensor) -> float:
        return score(point[0] * rows + point[1]).get(name, float("nan"))

    best, size = torch.tensor([width, middle], dtype=torch.float64), width
    for _ in range(2):  # the second time from nearby, where less is lost in rounding
        told = torch.tensor([at(best + size * torch.tensor(point)) for point in POINTS], dtype=torch.float64)
        here, right, left, up, down, both = told.tolist()
        bends = torch.tensor(
            [[right + left - 2 * here, both - right - up + here], [both - right - up + here, up + down - 2 * here]]
        ).double()
        if not bool(told.isfinite().all()) or not float(torch.linalg.det(bends)) > 0:
            return None
        best = best - size * torch.linalg.solve(bends, torch.tensor([right - left, up - down]).double() / 2)
        size = float(best[0].abs())
    factor = float(best[0]) / width
    return factor, float(best[1]) - factor * middle
