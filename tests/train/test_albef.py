"""ALBEF from beginning to end in small: a stopped run goes on exactly, with its slow copy and its queue."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sightline.models.fused import FusedPairVLM
from sightline.models.saved import load_model, load_run
from sightline.recipe.read import validate
from sightline.train.run import resume, train
from tests.train.objectives.test_slow import BERT
from tests.train.tiny import RECIPE, captioned


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Six images with two captions each; micro-batches, dropout, flips, and a queue that the second step wraps."""
    folder = tmp_path_factory.mktemp("pairs")
    captioned(folder)
    pair = {
        "vision": RECIPE["model"]["compose"]["vision"],
        "language": {"config": BERT, "pool": "first"},
        "tokenizer": {"build": "words"},
        "embed": 8,
        "pool": "mean",
        "fusion": {"blocks": 1, "momentum": 0.9, "queue": 10},
    }
    stage = RECIPE["stages"][0] | {
        "objective": {"itc": 1, "itm": 1, "mlm": 1},
        "pairs": {"distil": 0.4, "distil_ramp": 0.5},
        "steps": 4,
        "batch": 6,
        "micro_batch": 3,
        "flip": True,
        "validate_every": 2,
        "validation": "test",
    }
    data = {name: {"reader": "table", "path": str(folder / "rows.jsonl")} for name in ("train", "test")}
    evaluate = {"data": "test", "metric": "retrieval", "rerank": 3}
    changes = {"model": {"pair": pair}, "data": data, "stages": [stage], "evaluate": evaluate}
    return RECIPE | changes | {"checkpoints": {"every": 2, "keep": 5}}


@pytest.mark.slow
def test_a_resumed_run_has_the_same_slow_copy_and_queue(content: dict[str, Any], tmp_path: Path) -> None:
    whole, part = tmp_path / "whole", tmp_path / "part"
    train(validate(content, "tiny"), whole)
    shutil.copytree(whole, part, symlinks=True)
    shutil.rmtree(part / "checkpoints" / "see-4")
    (part / "checkpoints" / "latest").unlink()
    os.symlink("see-2", part / "checkpoints" / "latest")
    resume(part)
    one, other = (load_file(run / "checkpoints" / "see-4" / "model.safetensors") for run in (whole, part))
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    assert int(one["queue.pushed"]) == 24
    assert not torch.equal(one["teacher.connector.matcher.weight"], one["connector.matcher.weight"])

    # what is kept for going on is in the checkpoint, and not in the exported model
    kept, exported = load_run(whole).model, load_model(whole / "model").model
    assert isinstance(kept, FusedPairVLM) and isinstance(exported, FusedPairVLM)
    assert kept.teacher is not None and kept.queue is not None and len(kept.queue) == 10
    assert exported.teacher is None and exported.queue is None
    for name, value in exported.state_dict().items():
        assert torch.equal(value, one[name])

    found = [json.loads(line) for line in (whole / "findings.jsonl").read_text().splitlines()]
    assert [each for each in found if each["kind"] == "finding" and each.get("severity") == "error"] == []
    told = json.loads((whole / "evaluation.json").read_text())
    assert told["rerank"] == 3 and 0 <= told["matching"]["accuracy"] <= 1
    events = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert all(each["terms"].keys() == {"itc", "itm", "mlm"} for each in events if each["event"] == "train")
