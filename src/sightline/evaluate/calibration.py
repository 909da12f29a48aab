"""Calibration: is a model right as often as it is sure?

Answers are put into bins of equal width by their confidence. The expected calibration error is the mean gap between
confidence and accuracy over the bins, weighted by their answers (Naeini et al. 2015; Guo et al., arXiv 1706.04599,
equation 3); the maximum error is the widest gap. Both grow with fewer answers a bin, in a calibrated model too: read
them beside `expected_by_chance`, what a model would get whose every confidence is true.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.errors import UserError
from sightline.evaluate import bootstrap
from sightline.evaluate.json_file import Source, members

Array = NDArray[np.float64]
BINS = 15  # Guo et al.
DRAWS, SEED = 200, 0
PREDICTIONS = "--predictions"


@dataclass(frozen=True, slots=True)
class Bin:
    """The answers of one bin: [low, high), the last with its upper end; means are None where it is empty."""

    low: float
    high: float
    answers: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True, slots=True)
class Calibration:
    """What `calibration` found."""

    ece: float
    interval: tuple[float, float]
    mce: float
    brier: float
    expected_by_chance: float
    confidence: float
    accuracy: float
    bins: tuple[Bin, ...]

    def facts(self) -> dict[str, Any]:
        """As JSON has it."""
        table = [{name: getattr(each, name) for name in Bin.__slots__} for each in self.bins]
        names = ("ece", "mce", "brier", "expected_by_chance", "confidence", "accuracy")
        figures = {name: getattr(self, name) for name in names}
        return figures | {"interval": list(self.interval), "answers": sum(b.answers for b in self.bins), "bins": table}


def calibration(
    confidences: Sequence[float],
    marks: Sequence[float],
    *,
    bins: int = BINS,
    clusters: Sequence[Hashable] | None = None,
    seed: int = SEED,
) -> Calibration:
    """How far confidences are from accuracies.

    Args:
        confidences: the probability of each given answer, in [0, 1].
        marks: how right each is, in [0, 1].
        clusters: what the bootstrap draws together, e.g. images.

    Raises:
        ValueError: nothing given, lengths that differ, or values outside [0, 1].
    """
    sure, right = np.asarray(confidences, float), np.asarray(marks, float)
    if sure.shape != right.shape or sure.ndim != 1 or not len(sure):
        raise ValueError(f"{sure.shape} confidences and {right.shape} marks are not of the same answers")
    for name, values in (("confidence", sure), ("mark", right)):
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError(f"a {name} is outside [0, 1]")
    columns = _columns(sure, right, bins)
    sums = columns.sum(0, keepdims=True)
    draw = np.random.default_rng(seed)
    lucky = [
        _ece(_columns(sure, (draw.random(len(sure)) < sure).astype(float), bins).sum(0, keepdims=True))[0]
        for _ in range(DRAWS)
    ]
    table = _table(sums[0], bins)
    return Calibration(
        ece=float(_ece(sums)[0]),
        interval=bootstrap.of_sums(columns, _ece, clusters=clusters, seed=seed, resamples=1000),
        mce=max(
            abs(each.confidence - each.accuracy)
            for each in table
            if each.confidence is not None and each.accuracy is not None
        ),
        brier=float(((sure - right) ** 2).mean()),
        expected_by_chance=float(np.mean(lucky)),
        confidence=float(sure.mean()),
        accuracy=float(right.mean()),
        bins=table,
    )


def score_calibration(predictions: Source, *, bins: int = BINS) -> Calibration:
    """The same of a file: a list of {confidence, correct}, `correct` a truth value or a share.

    Raises:
        UserError: what is wrong with the file.
    """
    sure: list[float] = []
    right: list[float] = []
    images: list[Hashable] = []
    for name, value in members(predictions, PREDICTIONS):
        if name not in (None, "predictions"):
            continue
        for record in value if isinstance(value, list) else [value]:
            if not isinstance(record, dict) or not {"confidence", "correct"} <= set(record):
                what = f"record {len(sure) + 1} has no confidence and correct: {str(record)[:60]}"
                raise UserError(what, where=PREDICTIONS, fix='write [{"confidence": 0.9, "correct": true}]')
            for kind, kept in (("confidence", sure), ("correct", right)):
                if not isinstance(record[kind], (int, float)) or not 0 <= record[kind] <= 1:
                    what = f"record {len(images) + 1} has {record[kind]!r} for its {kind}, not a number in [0, 1]"
                    raise UserError(what, where=PREDICTIONS)
                kept.append(float(record[kind]))
            images.append(str(record.get("image_id", len(images))))
    if not sure:
        raise UserError("has no predictions", where=PREDICTIONS)
    return calibration(sure, right, bins=bins, clusters=images)


def _columns(sure: Array, right: Array, bins: int) -> Array:
    """What each answer adds: (N, 3 bins), to the number, the confidence and the accuracy of its bin."""
    edges = np.linspace(0, 1, bins + 1)
    place = np.minimum(np.searchsorted(edges, sure, side="right") - 1, bins - 1)
    columns = np.zeros((len(sure), 3 * bins))
    rows = np.arange(len(sure))
    columns[rows, place], columns[rows, bins + place], columns[rows, 2 * bins + place] = 1, sure, right
    return columns


def _ece(sums: Array) -> Array:
    count, confidence, accuracy = np.split(sums, 3, axis=1)
    return np.abs(confidence - accuracy).sum(1) / count.sum(1)


def _table(sums: Array, bins: int) -> tuple[Bin, ...]:
    edges = np.linspace(0, 1, bins + 1).tolist()
    count, confidence, accuracy = (part.tolist() for part in np.split(sums, 3))
    return tuple(
        Bin(edges[k], edges[k + 1], int(n), confidence[k] / n if n else None, accuracy[k] / n if n else None)
        for k, n in enumerate(count)
    )
