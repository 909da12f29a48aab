"""The whole trainer under torchrun: two processes give the losses of one, and can be resumed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from sightline.recipe import load
from sightline.train.run import train
from tests.train.parallel.runs import on_processes, table
from tests.train.tiny import RECIPE

pytestmark = pytest.mark.ddp


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    """Rows with and without images, so that some rank meets a batch of text alone."""
    rows = table(tmp_path)
    stage = RECIPE["stages"][0] | {"steps": 8, "batch": 4, "micro_batch": 1, "validate_every": 4}
    content = RECIPE | {
        "data": {"train": {"reader": "table", "path": str(rows)}},
        "stages": [stage],
        "evaluate": {"validation": "train"},
        "checkpoints": {"every": 4},
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def torchrun(*arguments: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m", "sightline"]
    ended = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def losses(run: Path, kind: str) -> list[float]:
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [event["loss"] for event in events if event["event"] == kind]


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(recipe_file: Path, tmp_path: Path) -> None:
    alone = train(load(str(recipe_file)), tmp_path / "alone")
    torchrun("train", str(recipe_file), "--out", str(tmp_path / "pair"))
    verdicts = [json.loads(line) for line in (tmp_path / "pair" / "findings.jsonl").read_text().splitlines()]
    kinds = {verdict["code"]: verdict["kind"] for verdict in verdicts}
    assert kinds["D1"] == kinds["D3"] == "passed" and "finding" not in kinds.values(), verdicts
    assert len(kinds) == len(verdicts)  # one line a check for both ranks
    facts: dict[str, Any] = json.loads((tmp_path / "pair" / "run.json").read_text())
    assert facts["world_size"] == 2 and facts["status"] == "finished"
    assert len(losses(alone, "train")) == 8
    for kind in ("train", "validation"):
        assert losses(tmp_path / "pair", kind) == pytest.approx(losses(alone, kind), rel=1e-4)
    on_processes(2, {tmp_path / "pair": None})
