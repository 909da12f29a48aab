"""Numbers that a model learnt in another unit than they are judged in: as deviations from a mean, or as logs.

Or they are in the unit of their labels, and the metric brings one of the two into another (see `attach/units.py`).
Whatever the unit, what comes as (N, 1) beside (N,) makes (N, N) where nobody looks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress

import torch
from torch import Tensor

from sightline.attach.script.scoring.verdict import SHIFTS, ZERO, Verdict, moved, whole
from sightline.attach.units import one_sided

ROWS = 32
FAR = 2.0  # deviations that the targets' mean is from 0: what is trained towards them goes there first
NOUGHT = 0.05  # of that mean, that the predictions' is
NARROW = 1 / 3  # of the targets' deviation, that the predictions' is
KNOWN = 0.5  # of the targets' variance, that the predictions tell: of what has not come far, less
CLEAR, RATHER = 0.2, 0.5  # of a number: between right rows and others; of that, between all rows and others
SAYS = "predictions in the unit of the targets"

Score = Callable[[Tensor, Tensor], Mapping[str, float]]


def in_target_unit(pred: Tensor, target: Tensor) -> tuple[float, float] | None:
    """Factor and offset that make targets of predictions, where these are numbers in another unit."""
    if not (pred.is_floating_point() and target.is_floating_point()) or pred.numel() != target.numel():
        return None
    said, wanted = pred.double().reshape(-1), target.double().reshape(-1)
    if len(said) < ROWS or not bool((said.isfinite() & wanted.isfinite()).all()):
        return None
    mean, spread, middle, width = wanted.mean(), wanted.std(), said.mean(), said.std()
    if not bool(width > 0) or not bool(spread > 0):
        return None
    told = float(((said - middle) * (wanted - mean)).mean() / (spread * width))
    unlike = middle.abs() <= NOUGHT * mean.abs() and width <= NARROW * spread and mean.abs() >= FAR * spread
    if told <= 0 or told**2 < KNOWN or not bool(unlike):
        return None
    return float(spread / width), float(mean - middle * spread / width)


def rescaled(pred: Tensor, target: Tensor, score: Score) -> dict[tuple[str, str], Verdict]:
    """By (name of the number, form): what a metric that is perfect for equal numbers gives in another unit."""
    if found := _every_pair(pred, target, score):
        return found
    unit = in_target_unit(pred, target)
    if unit is None:
        return {
            (name, one.says): Verdict(name, one.truth, one.spoilt, one.perfect, one.says, twice=one.early)
            for name, one in one_sided(pred, target, score).items()
        }
    factor, offset = unit
    like = target.reshape(pred.shape)
    truth = ((like.double() - offset) / factor).to(pred.dtype)
    best, given = score(like.to(pred.dtype), target), score(truth, target)
    actual, spoilt = score(pred, target), [score(moved(truth, by), target) for by in SHIFTS]
    found = {}
    for name, value in best.items():
        if not all(name in one for one in (given, actual, *spoilt)):
            continue
        error = abs(value) <= ZERO * abs(actual[name]) and given[name] > actual[name] / 2 > 0
        share = whole(value, set()) and max(given[name], actual[name]) < 0
        if error or share:
            others = tuple(one[name] for one in spoilt)
            found[name, SAYS] = Verdict(name, given[name], others, 1.0 if share else 0.0, SAYS, twice=True)
    return found


def _every_pair(pred: Tensor, target: Tensor, score: Score) -> dict[tuple[str, str], Verdict]:
    """What it gives for predictions as they come, of a metric that gives other numbers for the same in the targets'
    shape: as they come, it says no more of them than of those of other rows.
    """
    numbers = pred.is_floating_point() and target.is_floating_point()
    if not numbers or pred.shape == target.shape or pred.squeeze().shape != target.squeeze().shape:
        return {}
    both = torch.stack([pred.double().reshape(-1), target.double().reshape(-1)])
    if both.shape[1] < ROWS or not float(torch.corrcoef(both)[0, 1]) ** 2 >= KNOWN:
        return {}
    beside = pred.reshape(target.shape)
    with suppress(ArithmeticError, IndexError, RuntimeError, ValueError):  # it wants them as they come
        told = [score(one, target) for one in (pred, beside, *(moved(beside, by) for by in SHIFTS))]
        return {
            (name, ""): Verdict(name, given, tuple(others), right, "", pairs=True)
            for name in told[0]
            if all(name in one for one in told)
            for given, right, *others in [[one[name] for one in told]]
            for other in [sum(others) / len(others)]
            if abs(right - other) >= CLEAR * max(abs(right), abs(other))
            if abs(given - other) <= RATHER * abs(right - other)
        }
    return {}
