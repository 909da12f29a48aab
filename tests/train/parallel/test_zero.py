"""DeepSpeed's ZeRO trains what one process trains: the same losses, step by step, and the same weights in the end."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from sightline.train.run import resume, train
from tests.train.parallel.runs import ADAPTED, ALL, FROZEN, STEPS, losses, on_processes, recipe, table
from tests.train.parallel.test_layouts import copied, same

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


def test_a_checkpoint_goes_on_under_any_other_layout(rows: Path, tmp_path: Path) -> None:
    """Saved at step 10 by one layout, taken up by another: the losses of one whole run."""
    alone = train(recipe(rows), tmp_path / "alone")
    saved: Any = {"checkpoints": {"every": 10, "keep": 9}, "log_every": 1}
    kinds = ("zero2", "zero3")
    on_processes(2, {tmp_path / kind: recipe(rows, ALL, kind, **saved) for kind in (*kinds, "fsdp", "ddp")})
    on_four = {copied(tmp_path / "zero3", tmp_path / "zero3-on-four", "zero2"): None}
    on_four |= {copied(tmp_path / "fsdp", tmp_path / "fsdp-on-four", "zero3"): None}
    on_processes(4, on_four)
    pairs = [(one, other) for one in kinds for other in (*kinds, "fsdp", "ddp")] + [("fsdp", "zero3"), ("ddp", "zero2")]
    on_two = {copied(tmp_path / one, tmp_path / f"{one}-{other}", other): None for one, other in pairs}
    on_processes(2, on_two)
    last = copied(tmp_path / "zero3", tmp_path / "zero3-alone", "ddp")
    resume(last)
    for run in (*on_four, *on_two, last):
        same(run, alone)


def test_two_stages_with_all_that_comes_along(rows: Path, tmp_path: Path) -> None:
    """Averages, recomputation, a frozen tower whose features are kept, the best weights, and answers in the end."""
    first = {"name": "align", "learn": {"connector": "all"}, "steps": 4, "cache_features": True, "validate_every": 4}
    second = {"name": "see", "ema": 0.5, "gradient_checkpointing": True, "early_stop": {"patience": 9}}
    stages = [recipe(rows, ALL, stage=each).stages[0].model_dump(mode="json") for each in (first, second)]
    changes: Any = {"stages": stages, "evaluate": {"data": "train", "validation": "train"}}
    alone = train(recipe(rows, ALL, **changes), tmp_path / "alone")
    runs = {tmp_path / kind: recipe(rows, ALL, kind, **changes) for kind in ("zero2", "zero3")}
    on_processes(2, runs)
    for run in runs:
        same(run, alone, STEPS + 4)
        told = [json.loads((each / "evaluation.json").read_text())["accuracy"] for each in (run, alone)]
        assert told[0] == pytest.approx(told[1])


def test_offload_changes_no_number_and_bf16_few(rows: Path, tmp_path: Path) -> None:
    alone = train(recipe(rows), tmp_path / "alone")
    offloaded = {tmp_path / "optimizer": {"kind": "zero2", "offload": "optimizer"}}
    offloaded |= {tmp_path / "all": {"kind": "zero3", "offload": "all"}}
    half = {tmp_path / kind: recipe(rows, ALL, kind, precision="bf16") for kind in ("zero1", "zero2", "zero3")}
    on_processes(2, {folder: recipe(rows, ALL, each) for folder, each in offloaded.items()} | half)
    for run in offloaded:
        same(run, alone)
    for run in half:
        assert losses(run) == pytest.approx(losses(alone), rel=0.02)
