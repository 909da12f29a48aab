"""What a metric that gives another number than its best for the truth reads: decided from its own numbers.

That a number is the best one is known where the metric gives a whole share (1, 100, or as many as there are) or no
error at all in another form, and less for everything else that it is asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

from torch import Tensor

from sightline.attach.script.scoring.readings import Reading

SHIFTS = (1, 2, 3)  # rows by which predictions are moved on, to spoil them
CLOSE = 1e-3  # to a whole share: rounding, as in the check
SHORT = 0.01  # of it, that the truth falls short of it at least
TWICE = 2.0  # as far from spoilt predictions as the truth is: else a share of errors might look like one of hits
QUARTER = 0.25  # of the largest error: what shuffled rows, which are all wrong, have at least
ZERO = 1e-6  # of the errors of spoilt predictions: none

Score = Callable[[Any, Any], Mapping[str, float]]
OPPOSED = ({"labels less one", "labels plus one"}, {"labels one place earlier", "labels one place later"})


@dataclass(frozen=True)
class Verdict:
    """`name`: of the number, where the metric gives several. `perfect`: what it gives for `says`, or should.

    `alone`: batches, of which the last one alone matters to it; `truth` is of wrong answers in that. `twice`: training
    might still make it right, if it is seen in one evaluation alone. `pairs`: `truth` is of predictions as they come,
    each of which met every label, and `perfect` of the same ones in the labels' shape.
    """

    name: str
    truth: float
    spoilt: tuple[float, ...]
    perfect: float
    says: str
    alone: int = 0
    twice: bool = False
    pairs: bool = False


def numbers(value: Any, rows: int) -> dict[str, float]:
    """The scores in what a function returned: a number, one for each row, several of them, or right and all."""
    if (number := _number(value)) is not None:
        return {"": number}
    if isinstance(value, Mapping):
        found = {str(name): _number(one) for name, one in value.items()}
        return {name: one for name, one in found.items() if one is not None}
    if isinstance(value, tuple | list) and len(value) <= 8 and len(value) != rows:
        several = [_number(one) for one in value]
        found = {f"[{place}]": one for place, one in enumerate(several)}
        right, every = several if len(several) == 2 else (None, None)
        if right is not None and every and every == round(every):
            found["[0] / [1]"] = right / every
        return {name: one for name, one in found.items() if one is not None}
    each = [_number(one) for one in value] if isinstance(value, tuple | list) else _flat(value)
    return {"": sum(each) / rows} if each and len(each) == rows and None not in each else {}


def _flat(value: Any) -> list[Any]:
    return value.reshape(-1).tolist() if getattr(value, "ndim", 0) == 1 and hasattr(value, "reshape") else []


def _number(value: Any) -> float | None:
    if isinstance(value, Tensor) or hasattr(value, "__array__"):
        if getattr(value, "ndim", 1) and math.prod(value.shape) != 1:
            return None
        value = value.item() if math.prod(value.shape) == 1 else None
    number = float(value) if isinstance(value, Real) else math.nan
    return number if math.isfinite(number) else None


def judged(reading: Reading, pred: Any, target: Any, score: Score, counts: set[int]) -> dict[tuple[str, str], Verdict]:
    """By (name of the number, mistaken form): what the metric reads wrong. `counts`: how many there are to be right."""
    truth = score(reading.truth, target)
    if all(whole(value, counts) for value in truth.values()):
        return {}
    spoilt = [score(moved(reading.truth, by), target) for by in SHIFTS]
    if reading.opposite is not None and (blind := _blind(truth, [*spoilt, score(reading.opposite, target)], target)):
        return blind
    actual = score(pred, target)
    found = {}
    for other in reading.others:
        try:
            best = score(other.pred, other.target)
        except (IndexError, KeyError, RuntimeError, ValueError):
            continue  # a form that the metric does not take at all
        hopeful = any(whole(value, counts) or abs(value) <= ZERO for value in best.values())
        worse = [score(moved(other.pred, by), other.target) for by in SHIFTS] if hopeful else []
        for name, value in best.items():
            if worse and all(name in one for one in (truth, actual, *spoilt, *worse)):
                verdict = _told(
                    Verdict(name, truth[name], tuple(one[name] for one in spoilt), value, other.says),
                    tuple(one[name] for one in worse),
                    actual[name],
                    counts,
                )
                if verdict and not (reading.share and not whole(value, counts)):
                    found[name, other.says] = verdict
    names = {name for name, _ in found}
    apart = {name for name in names if not any(all((name, says) in found for says in pair) for pair in OPPOSED)}
    return {key: verdict for key, verdict in found.items() if key[0] in apart}


def _blind(
    truth: Mapping[str, float], others: list[Mapping[str, float]], target: Any
) -> dict[tuple[str, str], Verdict]:
    """Of a metric that says the same whatever is predicted, and of no row that it is a yes, as argmax of one column."""
    no = 1 - float(target.double().mean())
    if not all(other == truth for other in others):
        return {}
    return {
        (name, ""): Verdict(name, value, tuple(other[name] for other in others), 1.0, "")
        for name, value in truth.items()
        if abs(value - no) <= ZERO
    }


def perfect(reading: Reading, score: Score, counts: set[int]) -> frozenset[str]:
    """The mistaken forms for which a metric gives a whole share."""
    told = {other.says: score(other.pred, other.target) for other in reading.others}
    return frozenset(says for says, values in told.items() if all(whole(value, counts) for value in values.values()))


def moved(rows: Any, by: int) -> Any:
    """Rows moved on, so that each stands beside another's truth."""
    if isinstance(rows, Tensor):
        return rows.roll(by, 0)
    cut = by % len(rows)
    return [*rows[-cut:], *rows[:-cut]]


def whole(value: float, counts: set[int]) -> bool:
    """Whether a number is all that there is to be right."""
    return any(abs(value - one) <= CLOSE * one for one in (1, 100)) or value in counts


def _told(verdict: Verdict, worse: tuple[float, ...], actual: float, counts: set[int]) -> Verdict | None:
    """The verdict, if the numbers leave no other explanation."""
    best, truth, spoilt = verdict.perfect, verdict.truth, verdict.spoilt
    if whole(truth, counts) and truth >= max(spoilt):
        return None
    gap, other = _mean(worse) - best, _mean(spoilt) - truth
    clear = abs(gap) >= TWICE * abs(other) or (gap > 0) == (other > 0)
    if not clear:
        return None
    if whole(best, counts):
        least = best * (1 - SHORT)
        return verdict if max(*spoilt, *worse, actual, truth) <= best + CLOSE and max(*worse, truth) < least else None
    least, most = min(*spoilt, *worse), max(*spoilt, *worse, actual, truth)
    errors = least >= QUARTER * most > 0 and abs(best) <= ZERO * least  # whatever is wrong is so by as much
    return verdict if errors and truth > QUARTER * least else None


def _mean(values: tuple[float, ...]) -> float:
    return sum(values) / len(values)
