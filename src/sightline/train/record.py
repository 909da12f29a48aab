"""What is written down of every step, a logged window at a time: its loss, its gradient norm, and which rows it had.

Numbers stay on the device until the window is written, so no step is waited for. Rows are not written but told apart:
`sightline doctor` works them out again from the recipe, and knows by their print that they are the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor

from sightline.data.batch import Batch
from sightline.data.row import Where
from sightline.train.parallel.ranks import Ranks
from sightline.train.step import StepResult


class StepRecord:
    """The steps since the last window was written."""

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._norms: list[Tensor] = []
        self._rows: list[Where] = []

    def add(self, result: StepResult, batches: Sequence[Batch]) -> None:
        """A step was taken on `batches`."""
        self._losses.append(result.loss_sum.detach() / max(1, result.tokens))
        self._norms.append(result.grad_norm.detach())
        self._rows = [place for batch in batches for place in batch.examples]

    def told(self, ranks: Ranks) -> dict[str, Any]:
        """Each step's loss and gradient norm before clipping, and the print of the last one's rows on the main rank.

        The next window begins. Every rank is to ask.
        """
        if not self._losses:
            return {}
        losses = ranks.sum(torch.stack(self._losses).double().tolist())
        norms = [float(norm) for norm in self._norms]
        told = {"loss": [_short(loss) for loss in losses], "grad_norm": [_short(norm) for norm in norms]}
        rows = rows_print(self._rows)
        self.__init__()  # type: ignore[misc]
        return told | {"rows": rows}


def rows_print(rows: Iterable[Where]) -> str:
    """16 digits that tell these rows, in this order, from others; the folder that their files are in may change."""
    said = "\n".join(f"{PurePath(row.file).name}\t{row.row}" for row in rows)
    return hashlib.blake2b(said.encode(), digest_size=8).hexdigest()


def _short(value: float) -> float:
    return float(f"{value:.6g}")
