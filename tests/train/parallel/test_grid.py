"""Tensor, pipeline and data ranks together train what one process trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sightline.train.run import train
from tests.train.parallel.runs import ADAPTED, ALL, FROZEN, on_processes, recipe, table
from tests.train.parallel.test_layouts import same

pytestmark = [pytest.mark.ddp, pytest.mark.slow]

LAYOUTS: dict[int, dict[str, Any]] = {
    2: {"tensor": {"tensor": 2}},
    4: {"tensor-data": {"tensor": 2, "data": 2}, "tensor-fsdp": {"kind": "fsdp", "tensor": 2}},
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `table`."""
    return table(tmp_path_factory.mktemp("rows"))


@pytest.mark.parametrize("world", LAYOUTS)
@pytest.mark.parametrize("learn", [ALL, FROZEN, ADAPTED], ids=["all", "frozen-vision", "lora"])
def test_losses_and_weights_of_one_process(rows: Path, tmp_path: Path, world: int, learn: dict[str, Any]) -> None:
    alone = train(recipe(rows, learn), tmp_path / "alone")
    runs = {tmp_path / name: recipe(rows, learn, layout) for name, layout in LAYOUTS[world].items()}
    on_processes(world, runs)
    for run in runs:
        same(run, alone)
