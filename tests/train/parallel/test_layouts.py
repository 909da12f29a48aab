"""Every layout trains what one process trains: the same losses, step by step, and the same weights in the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from sightline.train.run import train
from tests.train.parallel.runs import ADAPTED, ALL, FROZEN, STEPS, losses, on_processes, recipe, table

pytestmark = pytest.mark.ddp

SHARED = {"fsdp": "fsdp", "fsdp-frozen": {"kind": "fsdp", "frozen": "shard"}, "hybrid": {"kind": "hybrid", "shard": 2}}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `table`."""
    return table(tmp_path_factory.mktemp("rows"))


def same(run: Path, alone: Path) -> None:
    assert len(losses(run)) == STEPS
    for kind in ("train", "validation"):
        assert losses(run, kind) == pytest.approx(losses(alone, kind), abs=1e-5)
    own, expected = (load_file(path / "checkpoints" / "latest" / "model.safetensors") for path in (run, alone))
    assert own.keys() == expected.keys()
    worst = {name: float((own[name] - expected[name]).abs().max()) for name in expected}
    assert max(worst.values()) < 1e-5, max(worst.items(), key=lambda item: item[1])


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("learn", [ALL, FROZEN, ADAPTED], ids=["all", "frozen-vision", "lora"])
def test_losses_and_weights_of_one_process(rows: Path, tmp_path: Path, world: int, learn: dict[str, Any]) -> None:
    alone = train(recipe(rows, learn), tmp_path / "alone")
    runs = {tmp_path / name: recipe(rows, learn, layout) for name, layout in SHARED.items()}
    on_processes(world, runs)
    for run in runs:
        same(run, alone)
