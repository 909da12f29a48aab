"""How often FSDP gathers weights that do not learn: never where they are replicated, else once for a micro-batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.tensor.debug import CommDebugMode

from sightline.data.pack import pack
from sightline.data.row import Row
from sightline.recipe.schema import Parallel
from sightline.train.freeze import freeze
from sightline.train.objectives import NextToken
from sightline.train.parallel.fsdp import Fsdp
from sightline.train.parallel.ranks import Ranks
from tests.train.parallel.processes import on_ranks
from tests.train.tiny import fresh, stage

pytestmark = [pytest.mark.ddp, pytest.mark.slow]

BLOCKS = 2 + 2  # of the tiny vision and language towers


def gathers(ranks: Ranks, rows: list[Row], learn: dict[str, str], frozen: Any) -> int:
    """All-gathers of one forward and backward pass."""
    settings, spec, built = Parallel(kind="fsdp", frozen=frozen), stage(learn=learn).stages[0], fresh(rows)
    freeze(built.model, spec)
    model = Fsdp(settings, ranks, settings.sizes(2, 2)).place(built.model, spec).train()
    batch = built.encoder.collate(pack([built.encoder.encode(row) for row in rows[:2]], "none", 512))
    with CommDebugMode() as seen:
        NextToken().loss(model, batch)[0].backward()
    return sum(n for op, n in seen.get_comm_counts().items() if op == torch.ops.c10d._allgather_base_)


def test_frozen_weights_are_gathered_at_most_once(rows: list[Row], tmp_path: Path) -> None:
    aligns, tunes = {"connector": "all"}, {"connector": "all", "language": "all"}
    settings = [(rows, learn, frozen) for learn in (aligns, tunes) for frozen in ("replicate", "shard")]
    found = on_ranks(2, [(gathers, each) for each in settings], tmp_path)
    assert [counts[0] for counts in found] == [
        1,  # the root, which holds the connector
        1 + BLOCKS,  # and each frozen block, once
        1 + 2 * 2,  # each language block for its forward and its backward pass
        1 + 2 * 2 + 2,
    ]
