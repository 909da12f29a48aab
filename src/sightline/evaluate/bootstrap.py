"""Bootstrap intervals: how far a score would move, had other questions of the same kind been asked.

Questions are drawn with replacement, as many as there are, and the score is computed again; the interval has the
middle share of the resamples (the percentile bootstrap: Efron & Tibshirani, An Introduction to the Bootstrap, 1993,
chapter 13). Questions about one image are not independent: drawn by `clusters`, whole images are drawn.

Scores are functions of sums over questions (a mean, a corpus BLEU, an F1, a calibration error), so a resample is known
by how often each question was drawn. Equal lines of questions are drawn together, by a multinomial: the distribution
is the same, and 200,000 questions with a dozen different marks take milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]  # sums (R, C) of R resamples -> their scores (R,)
SEED, RESAMPLES, LEVEL = 0, 2000, 0.95
AT_ONCE = 1 << 22  # draws held in memory at a time
ROUNDED = 12  # digits by which lines are told apart: 0.3 + 0.6 and 0.6 + 0.3 are one


@dataclass(frozen=True, slots=True)
class Difference:
    """The mean of a - b over the same questions, its interval, and how often a resample is not above 0 (or below)."""

    mean: float
    low: float
    high: float
    p: float  # two-sided: the chance of a mean on the other side of 0, doubled; at least 1 / (resamples + 1)


def interval(
    marks: Sequence[float] | Array,
    *,
    seed: int = SEED,
    resamples: int = RESAMPLES,
    clusters: Sequence[Hashable] | None = None,
    level: float = LEVEL,
) -> tuple[float, float]:
    """The interval of the mean of `marks`.

    Marks that are all alike give an interval without width: for shares of right answers, which may be all right, take
    Wilson's (`score.wilson`).

    Raises:
        ValueError: no marks, a mark that is not finite, or `clusters` of another length.
    """
    columns = np.column_stack([np.asarray(marks, float), np.ones(len(marks))])
    return of_sums(columns, _mean, seed=seed, resamples=resamples, clusters=clusters, level=level)


def paired(
    a: Sequence[float] | Array,
    b: Sequence[float] | Array,
    *,
    seed: int = SEED,
    resamples: int = RESAMPLES,
    clusters: Sequence[Hashable] | None = None,
    level: float = LEVEL,
) -> Difference:
    """How much better `a` is than `b`, marks of the same questions in the same order.

    Raises:
        ValueError: as `interval`, or lengths that differ.
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} marks are not of the same questions")
    columns = np.column_stack([np.asarray(a, float) - np.asarray(b, float), np.ones(len(a))])
    means = _mean(resampled(columns, seed=seed, resamples=resamples, clusters=clusters))
    low, high = middle(means, level)
    beyond = min(np.count_nonzero(means <= 0), np.count_nonzero(means >= 0))
    p = min(1.0, 2 * (int(beyond) + 1) / (resamples + 1)) if columns[:, 0].any() else 1.0
    return Difference(float(columns[:, 0].mean()), low, high, p)


def of_sums(
    columns: ArrayLike,
    statistic: Statistic,
    *,
    seed: int = SEED,
    resamples: int = RESAMPLES,
    clusters: Sequence[Hashable] | None = None,
    level: float = LEVEL,
) -> tuple[float, float]:
    """The interval of a score that is a function of sums.

    Args:
        columns: (N, C), what each question adds to each of C sums.
        statistic: sums (R, C) of R resamples to their scores (R,). Scores that are NaN (an F1 without positives) are
            left out; the interval is (nan, nan) where all are.
    """
    scores = statistic(resampled(columns, seed=seed, resamples=resamples, clusters=clusters))
    return middle(scores[~np.isnan(scores)], level)


def resampled(
    columns: ArrayLike,
    *,
    seed: int = SEED,
    resamples: int = RESAMPLES,
    clusters: Sequence[Hashable] | None = None,
) -> Array:
    """The sums (R, C) of R resamples of `columns` (N, C). Raises ValueError as `interval`."""
    lines = np.asarray(columns, float)
    if len(lines) == 0:
        raise ValueError("there is nothing to resample")
    if not np.isfinite(lines).all():
        raise ValueError("a mark is not finite")
    if clusters is not None:
        lines = _by_cluster(lines, clusters)
    distinct, counts = np.unique(lines.round(ROUNDED), axis=0, return_counts=True)
    random, total = np.random.default_rng(seed), len(lines)
    if len(distinct) * 16 < total:  # a binomial costs more than an index
        return random.multinomial(total, counts / total, size=resamples) @ distinct
    sums = np.empty((resamples, lines.shape[1]))
    step = max(1, AT_ONCE // total)
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        drawn = random.integers(0, total, size=(count, total)) + np.arange(count)[:, None] * total
        times = np.bincount(drawn.ravel(), minlength=count * total).reshape(count, total)
        sums[start : start + count] = times @ lines
    return sums


def _by_cluster(lines: Array, clusters: Sequence[Hashable]) -> Array:
    if len(clusters) != len(lines):
        raise ValueError(f"{len(clusters)} clusters for {len(lines)} marks")
    places: dict[Hashable, int] = {}
    of_line = [places.setdefault(cluster, len(places)) for cluster in clusters]
    sums = np.zeros((len(places), lines.shape[1]))
    np.add.at(sums, of_line, lines)
    return sums


def _mean(sums: Array) -> Array:
    return sums[:, 0] / sums[:, 1]


def middle(scores: Array, level: float = LEVEL) -> tuple[float, float]:
    """The ends of the middle share of resampled scores; NaN where there are none."""
    if not len(scores):
        return float("nan"), float("nan")
    low, high = np.quantile(scores, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
