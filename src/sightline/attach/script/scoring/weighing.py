"""Is a score of an evaluation the mean of its batches' scores, where batches differ in size?

The evaluation is run again (see `replay.py`) over each batch alone, and over its halves. Where a batch's score is that
of its halves, each weighted by its rows (or labels), it is a mean over these; where the score of all is the plain mean
of the batches', those of small batches count for more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from math import isclose, sqrt
from statistics import fmean
from typing import Any

from torch import Tensor

from sightline.attach.script.scoring.asking import alone
from sightline.attach.script.scoring.batches import rows, some, tensors
from sightline.attach.script.scoring.recorded import Recorded
from sightline.attach.script.scoring.replay import pieces
from sightline.attach.script.scoring.stage import PRINTED, Stage
from sightline.guard.evidence import IGNORE, BatchMeansSeen

BATCHES = 64  # that are run again, with their halves
SPLIT = 2  # batches whose halves differ, at least
FINE, COARSE = 1e-5, 1e-3  # of a number, by the rounding of its sum; of one that is printed
WHOLE = 1e-3  # by which a count of hits is off an integer, summed in float32
HITS = (1, 100)  # what a share of hits is multiplied with

Told = tuple[Any, Any]
Weigh = Callable[[Any], int]


@dataclass(frozen=True)
class Part:
    """A batch, its answers, its numbers, and the same of its halves, where it has two rows or more."""

    told: Told
    scores: dict[str, float]
    halves: tuple[Part, ...] = ()


def weighed(record: Recorded, own: Callable[[str], bool], step: int, until: float) -> BatchMeansSeen | None:
    """The number of an evaluation that is a mean over batches, and furthest from the one over rows."""
    told = record.told
    if not (record.whole and record.paired and 2 <= len(told) <= BATCHES):
        return None
    weighs = [weigh for weigh in _weighs(told) if len({weigh(batch) for batch, _ in told}) > 1]
    for piece in pieces(record) if weighs else ():
        with alone(), suppress(Exception):  # the script's own code, with other batches than it was made for
            stage = Stage(record, piece, own, until, paired=True)
            found = list(_means(stage, told, weighs))
            if found:
                furthest = max(found, key=lambda one: abs(one.value - one.whole) / max(one.error, FINE))
                return replace(furthest, step=step, name=f"{furthest.name} ({piece.where})".lstrip())
    return None


def _means(stage: Stage, told: list[Told], weighs: list[Weigh]) -> Iterator[BatchMeansSeen]:
    def score(these: list[Told]) -> dict[str, float]:
        return stage.score([output for _, output in these], [batch for batch, _ in these])

    every, parts = score(told), [Part(one, score([one])) for one in told]
    plain = {name: value for name, value in every.items() if _plain(name, value, parts)}
    if not plain:
        return
    parts = [
        Part(one.told, one.scores, tuple(Part(half, score([half])) for half in _halves(one.told))) for one in parts
    ]
    for name, value in plain.items():
        for weigh in weighs:
            if _is_mean(name, parts, weigh):
                sizes = [weigh(batch) for batch, _ in told]
                whole = sum(one.scores[name] * size for one, size in zip(parts, sizes, strict=True)) / sum(sizes)
                share = _hits(name, parts, sizes)
                error = _error(name, parts, whole / share if share else None) * (share or 1)
                last = len(set(sizes[:-1])) == 1
                yield BatchMeansSeen(0, name, value, whole, error, len(told), bool(share), last)
                break


def _plain(name: str, value: float, parts: list[Part]) -> bool:
    """Whether a number is the plain mean of the batches' numbers, which differ."""
    if not all(name in one.scores for one in parts):
        return False
    values = [one.scores[name] for one in parts]
    return len(set(values)) > 1 and _same(name, value, fmean(values))


def _same(name: str, one: float, other: float) -> bool:
    return isclose(one, other, rel_tol=FINE, abs_tol=COARSE if name.startswith(PRINTED) else FINE)


def _is_mean(name: str, parts: list[Part], weigh: Weigh) -> bool:
    """Whether each batch's number is its halves', weighted."""
    told = 0
    for one in parts:
        if not one.halves:
            continue
        if not all(name in half.scores for half in one.halves):
            return False
        sizes, values = [weigh(half.told[0]) for half in one.halves], [half.scores[name] for half in one.halves]
        if not sum(sizes):
            return False
        if not _same(name, one.scores[name], sum(v * n for v, n in zip(values, sizes, strict=True)) / sum(sizes)):
            return False
        told += values[0] != values[1]
    return told >= SPLIT


def _hits(name: str, parts: list[Part], sizes: list[int]) -> int | None:
    """What a share of hits is multiplied with; None for anything else."""
    counts = [(one.scores[name], size) for one, size in zip(parts, sizes, strict=True)]
    for scale in HITS:
        hits = [value / scale * size for value, size in counts]
        if all(
            0 <= hit <= size + WHOLE and abs(hit - round(hit)) <= WHOLE
            for hit, (_, size) in zip(hits, counts, strict=True)
        ):
            return scale
    return None


def _error(name: str, parts: list[Part], share: float | None) -> float:
    """The standard error of a mean over all rows, by how much halves differ; of a share, that of a binomial."""
    count = sum(rows(one.told[0]) for one in parts)
    if share is not None:
        return sqrt(max(share * (1 - share), 0.0) / count)
    spread = []
    for one in parts:
        if one.halves:
            (first, n), (second, m) = ((half.scores[name], rows(half.told[0])) for half in one.halves)
            spread.append((first - second) ** 2 * n * m / (n + m))
    return sqrt(fmean(spread) / count)


# --- weights ---------------------------------------------------------------------------------------------------------


def _halves(told: Told) -> list[Told]:
    batch, output = told
    half = rows(batch) // 2
    cuts = (slice(0, half), slice(half, None)) if half else ()
    return [(some(batch, cut), some(output, cut)) for cut in cuts]


def _weighs(told: list[Told]) -> Iterator[Weigh]:
    """Ways to count what a mean may be over: rows, and whatever in them is labelled, or no padding."""
    yield rows
    for place, tensor in enumerate(tensors(told[0][0])):
        if tensor.is_floating_point() or tensor.dim() < 2:
            continue
        for first in (0, 1):
            for ignored in (None, IGNORE, 0):
                yield _counting(place, first, ignored)


def _counting(place: int, first: int, ignored: int | None) -> Weigh:
    def count(batch: Any) -> int:
        values: Tensor = tensors(batch)[place][:, first:]
        return values.numel() if ignored is None else int((values != ignored).sum())

    return count
