"""DeepSpeed's ZeRO trains what one process trains: the same losses, step by step, and the same weights in the end."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from sightline.train.run import train
from tests.train.parallel.runs import ADAPTED, ALL, FROZEN, on_processes, recipe, table
from tests.train.parallel.test_layouts import same

pytestmark = [
    pytest.mark.ddp,
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed (sightline[deepspeed])"),
]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `table`."""
    return table(tmp_path_factory.mktemp("rows"))


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("learn", [ALL, FROZEN, ADAPTED], ids=["all", "frozen-vision", "lora"])
def test_losses_and_weights_of_one_process(rows: Path, tmp_path: Path, world: int, learn: dict[str, Any]) -> None:
    alone = train(recipe(rows, learn), tmp_path / "alone")
    runs = {tmp_path / kind: recipe(rows, learn, kind) for kind in ("zero1", "zero2", "zero3")}
    on_processes(world, runs)
    for run in runs:
        same(run, alone)
