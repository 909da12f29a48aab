"""State bytes of pipeline stages against what two gloo processes really hold after a step, to the byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from sightline.data.pack import pack
from sightline.data.row import Row
from sightline.plan.memory import StateBytes, size_of, tensor_bytes
from sightline.plan.pipeline import shared_out
from sightline.recipe.schema import Parallel
from sightline.train.freeze import freeze
from sightline.train.objectives import NextToken
from sightline.train.parallel.pipeline import Pipeline, stage_sizes
from sightline.train.parallel.ranks import Ranks
from sightline.train.precision import pick_precision
from tests.train.parallel.processes import on_ranks
from tests.train.tiny import drawn, fresh, stage

pytestmark = [pytest.mark.ddp, pytest.mark.slow]

ALL = {"vision": "all", "connector": "all", "language": "all"}
FROZEN = {"connector": "all", "language": "all"}


def held(ranks: Ranks, rows: list[Row], learn: dict[str, str]) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes that this rank holds after one step, and what the plan says of its stage."""
    spec, built = stage(learn=learn).stages[0], fresh(rows)
    freeze(built.model, spec)
    model: Any = built.model
    settings = Parallel(pipeline=ranks.world)
    layout = Pipeline(settings, ranks, settings.sizes(ranks.world, ranks.world))
    parts = shared_out(model, stage_sizes(model, spec, ranks.world))[layout.stage]
    planned = sum((tensor_bytes(each, ()) for each in parts.values()), StateBytes())
    precision = pick_precision("fp32", ranks.device)
    layout.check(model, spec, NextToken(), precision)
    placed = layout.place(model, spec)
    optimizer = layout.optimizer(placed, spec)
    batches = [built.encoder.collate(pack([built.encoder.encode(row)], "none", 512)) for row in rows[:2]]
    layout.backward(NextToken(), placed, batches, {"next-token": 1.0}, precision, optimizer)
    layout.update(optimizer, precision, None)
    kept: dict[str, list[Tensor]] = {"weights": list(placed.parameters())}
    kept["gradients"] = [p.grad for p in placed.parameters() if p.grad is not None]
    kept["optimizer"] = [value for state in optimizer.state.values() for value in state.values()]
    found = {kind: sum(map(size_of, tensors)) for kind, tensors in kept.items()}
    return found, {kind: getattr(planned, kind) for kind in found}


@pytest.mark.parametrize("learn", [ALL, FROZEN], ids=["all", "frozen-vision"])
def test_a_stage_holds_what_is_planned(learn: dict[str, str], tmp_path: Path) -> None:
    (seen,) = on_ranks(2, [(held, (drawn(tmp_path), learn))], tmp_path)
    for found, planned in seen:
        assert found == planned
    assert seen[0] != seen[1]
