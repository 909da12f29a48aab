"""Per-tower numbers of a step: gradient norms, and how far an update moves the weights. Taken only where logged."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sightline.data.batch import Batch
from sightline.train.parallel.ranks import Ranks
from sightline.train.parallel.sharded import local, norm

SAMPLE = 1 << 16  # elements of a parameter that are watched: exact for small towers, an estimate for large ones


def gradient_norms(towers: Mapping[str, Sequence[Tensor]], total: float, clip: float | None) -> dict[str, float]:
    """L2 norm of each tower's gradients before they were clipped from the norm `total` to `clip`.

    Of gradients that overflowed, clipping leaves no more than where: infinite for their towers, no number for others.
    """
    if not math.isfinite(total):
        left = gradient_norms(towers, 1.0, None)
        return {tower: math.nan if math.isfinite(each) else math.inf for tower, each in left.items()}
    shrunk = min(1.0, clip / total) if clip is not None and total > 0 else 1.0
    norms = {}
    for tower, parameters in towers.items():
        gradients = [p.grad for p in parameters if p.grad is not None]
        norms[tower] = float(norm(gradients)) / shrunk if gradients else 0.0
    return norms


class Pace:
    """Sequences, images and tokens a second since the last logged step, waiting for data and validation included."""

    def __init__(self) -> None:
        self._since, self._counts = time.perf_counter(), [0, 0, 0]

    def count(self, batches: Sequence[Batch]) -> None:
        """A step was taken on `batches` (as they came, on the host)."""
        for batch in batches:
            seen = (len(batch.input_ids), len(batch.image_keys), int(batch.attention_mask.sum()))
            self._counts = [total + more for total, more in zip(self._counts, seen, strict=True)]

    def rates(self, ranks: Ranks) -> dict[str, float]:
        """The rates over all ranks; counting starts anew."""
        totals = ranks.sum([float(count) for count in self._counts])
        seconds = time.perf_counter() - self._since
        self.__init__()  # type: ignore[misc]
        names = ("sequences_per_s", "images_per_s", "tokens_per_s")
        return {name: total / seconds for name, total in zip(names, totals, strict=True)}


class UpdateRatio:
    """Norm of the update over norm of the weights, per tower; healthy values lie about 1e-3 (Karpathy 2019)."""

    def __init__(self, towers: Mapping[str, Sequence[Tensor]]) -> None:
        self._towers = towers
        self._before = {tower: [self._sample(p).clone() for p in parameters] for tower, parameters in towers.items()}

    @staticmethod
    def _sample(parameter: Tensor) -> Tensor:
        return local(parameter.detach()).flatten()[:SAMPLE]

    def after_step(self, ranks: Ranks | None = None) -> dict[str, float]:
        """The ratio of the step taken since this object was made; of what all `ranks` hold, where they are given."""
        squares = []
        for tower, before in self._before.items():
            after = [self._sample(p) for p in self._towers[tower]]
            squares += [_square(torch._foreach_sub(after, before)), _square(before)] if before else [0.0, 0.0]
        totals = ranks.sum(squares) if ranks else squares
        moved, sizes = totals[::2], totals[1::2]
        return {tower: math.sqrt(m / max(s, 1e-24)) for tower, m, s in zip(self._before, moved, sizes, strict=True)}


def _square(tensors: Sequence[Tensor]) -> float:
    return float(torch.stack(torch._foreach_norm(list(tensors))).double().square().sum())
