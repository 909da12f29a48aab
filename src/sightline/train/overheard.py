"""What the guard can see where no rank has a model to watch: what was fed, and the loss and the rates of each step.

ZeRO's engine and pipeline ranks hold parts of a model that cannot be asked for its gradients. A stand-in without a
single weight of it is called with the same batches, behind the real step, so the guard hears of them by its own door.
Only checks that judge rows, rates and losses are run; of the others it is told why not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import PrefixStore
from torch.optim import SGD, Optimizer

from sightline.attach.ranks import joined
from sightline.attach.torch_loop import Attachment
from sightline.data.batch import Batch
from sightline.data.encode import Encoder
from sightline.guard.catalogue import Check, load, pages
from sightline.train.groups import rates
from sightline.train.parallel.layout import Layout
from sightline.train.parallel.ranks import Ranks

HEARD = {"D2", "L2", "L3", "M1", "P1", "T6", "X4"}  # what they judge is known to the host: rows, rates, losses
ZERO = "DeepSpeed keeps weights and gradients as flat pieces of its own, in which no hook tells one from another"
PIPELINE = "a pipeline rank has some of the blocks, which torch's schedule calls, and no rank the whole model"
TWINS = "all ranks of one pipeline are fed the same rows, as they should be, and there is no other"


class StandIn(nn.Module):
    """Is called in the model's place, with what it was fed; learns nothing."""

    def __init__(self, towers: Sequence[str]) -> None:
        super().__init__()
        self.rates = nn.ParameterDict({tower: nn.Parameter(torch.zeros(1)) for tower in towers})

    def forward(self, batch: Batch, rows: Mapping[str, Tensor] | None = None) -> Tensor:
        """Nothing that could be judged. `rows`: what each row of the batch is known by."""
        return torch.zeros(())


class Overheard:
    """The stand-in and its optimizer, whose rates are those of the real one.

    `stand_in` and `optimizer` are what is attached to; nothing here touches the model, its optimizer or its numbers.
    """

    def __init__(self, optimizer: Optimizer, encoder: Encoder) -> None:
        self._real, self._encoder = optimizer, encoder
        self.stand_in = StandIn(list(rates(optimizer)))
        groups: list[dict[str, Any]] = [
            {"params": [p], "tower": tower, "lr": 0.0} for tower, p in self.stand_in.rates.items()
        ]
        self.optimizer = SGD(groups)
        if optimizer.state:  # taken up from a checkpoint: its rates begin in the middle of a schedule
            self.optimizer.state[groups[0]["params"][0]]["taken_up"] = torch.zeros(())

    def step(self, batches: Sequence[Batch]) -> None:
        """A step was taken on `batches`."""
        with torch.enable_grad():
            for batch in batches:
                self.stand_in(batch, rows=rows_of(batch, self._encoder))
        now = rates(self._real)
        for group in self.optimizer.param_groups:
            group["lr"] = now[group["tower"]]
        self.optimizer.step()

    def evaluated(self, batch: Batch) -> None:
        """The model was asked about `batch`."""
        with torch.no_grad():
            self.stand_in(batch, rows=rows_of(batch, self._encoder))


def rows_of(batch: Batch, encoder: Encoder) -> dict[str, Tensor]:
    """What tells rows apart: their tokens, and the images shown in each, by key; {} where it is not known which."""
    each, index = encoder.tokens_per_image, batch.image_index.tolist()
    counts = [0] * len(batch.input_ids)
    if index:
        if each is None or len(batch.image_keys) <= max(index):
            return {}
        counts = ((batch.input_ids == encoder.image_token_id).sum(1) // each).tolist()
    if sum(counts) != len(index):
        return {}
    keys, spans = [_number(key) for key in batch.image_keys], iter(index)
    shown = [[keys[next(spans)] for _ in range(count)] for count in counts]
    most = max(1, *counts)
    images = torch.tensor([[*row, *[0] * (most - len(row))] for row in shown])
    return {"input_ids": batch.input_ids, "images": images.to(batch.input_ids.device)}


def _number(key: str) -> int:
    """Above 0, and another one for each key."""
    return 1 + int.from_bytes(blake2b(key.encode(), digest_size=7).digest())


def heard(layout: Layout) -> list[Check]:
    """The checks that are run. Whether ranks are fed the same rows, only where there are several that should not be."""
    codes = HEARD if layout.ranks.world > 1 else HEARD - {"D2"}
    return [check for check in load() if check.page.code in codes]


def among(attachment: Attachment, ranks: Ranks, name: str) -> None:
    """Compare the rows of those that are to be fed different ones, and of no twin. `name`: of this block's training."""
    if (everyone := joined()) is not None and ranks.world > 1:
        attachment.replicas.among(PrefixStore(f"fed/{name}", everyone.store), ranks.rank, ranks.world)


def unheard(layout: Layout) -> list[dict[str, Any]]:
    """The verdict on each check that is not run: why."""
    run = {check.page.code for check in heard(layout)}
    why = PIPELINE if layout.settings.pipeline > 1 else ZERO
    return [
        {"kind": "not-run", "check": page.name, "code": page.code, "why": TWINS if page.code in HEARD else why}
        for page in pages()
        if page.code not in run
    ]
