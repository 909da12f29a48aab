"""Tensor, pipeline and data ranks together train what one process trains."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sightline.recipe import load, to_yaml
from sightline.recipe.schema import Parallel
from sightline.train.run import resume, train
from tests.train.parallel.runs import ADAPTED, ALL, FROZEN, STEPS, on_processes, recipe, table
from tests.train.parallel.test_layouts import same
from tests.train.tiny import RECIPE

pytestmark = [pytest.mark.ddp, pytest.mark.slow]

LAYOUTS: dict[int, dict[str, Any]] = {
    2: {"tensor": {"tensor": 2}, "pipeline": {"pipeline": 2}},
    4: {
        "tensor-data": {"tensor": 2, "data": 2},
        "tensor-fsdp": {"kind": "fsdp", "tensor": 2},
        "pipeline": {"pipeline": 4},  # one block on each
        "pipeline-data": {"pipeline": 2, "data": 2},
        "pipeline-tensor": {"pipeline": 2, "tensor": 2},
    },
}
# No key's bias changes a softmax over keys, so its gradient is rounding alone, which Adam would blow up to full steps.
STAGE = {"optimizer": {"weight_decay": 0.1, "clip": 0.5, "eps": 1e-6}}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `table`."""
    return table(tmp_path_factory.mktemp("rows"))


@pytest.mark.parametrize("world", LAYOUTS)
@pytest.mark.parametrize("learn", [ALL, FROZEN, ADAPTED], ids=["all", "frozen-vision", "lora"])
def test_losses_and_weights_of_one_process(rows: Path, tmp_path: Path, world: int, learn: dict[str, Any]) -> None:
    alone = train(recipe(rows, learn, stage=STAGE), tmp_path / "alone")
    runs = {tmp_path / name: recipe(rows, learn, layout, stage=STAGE) for name, layout in LAYOUTS[world].items()}
    on_processes(world, runs)
    for run in runs:
        same(run, alone)


def test_checkpoints_go_on_under_any_other_layout(rows: Path, tmp_path: Path) -> None:
    """Saved at step 10 by one layout, with averages, and taken up by another: the losses of one whole run."""
    spec: Any = {"stage": STAGE | {"ema": 0.5}, "checkpoints": {"every": 10, "keep": 9}}
    alone = train(recipe(rows, ALL, **spec), tmp_path / "alone")
    written = {"alone": alone} | {name: tmp_path / name for name in LAYOUTS[2]}
    on_processes(2, {written[name]: recipe(rows, ALL, layout, **spec) for name, layout in LAYOUTS[2].items()})
    on_two, on_four = {}, {}
    for name, run in written.items():
        assert (run / "checkpoints" / "see-10" / "shards").is_dir() == (name != "alone")
        same(run, alone)
        for other, layout in LAYOUTS[2].items():
            if other != name:
                on_two[copied(run, tmp_path / f"{name}-{other}", layout)] = None
    on_four[copied(written["tensor"], tmp_path / "tensor-fsdp", {"kind": "fsdp"})] = None
    on_four[copied(written["pipeline"], tmp_path / "pipeline-both", {"pipeline": 2, "tensor": 2})] = None
    on_processes(2, on_two)
    on_processes(4, on_four)
    last = [copied(written[name], tmp_path / f"{name}-alone", "ddp") for name in LAYOUTS[2]]
    for run in last:
        resume(run)
    for run in (*on_two, *on_four, *last):
        same(run, alone)


def copied(run: Path, to: Path, parallel: Any) -> Path:
    """`run` as it was when it had saved step 10, to be gone on with under `parallel`."""
    shutil.copytree(run, to, symlinks=True, ignore=shutil.ignore_patterns("model", "see-20", "latest", "best"))
    for name in ("latest", "best"):
        (to / "checkpoints" / name).symlink_to("see-10")
    spec = load(str(to / "recipe.yaml"))
    told = Parallel(kind=parallel) if isinstance(parallel, str) else Parallel(**parallel)
    (to / "recipe.yaml").write_text(to_yaml(spec.model_copy(update={"parallel": told})))
    return to


def test_tied_embeddings_on_both_ends_of_a_pipeline(rows: Path, tmp_path: Path) -> None:
    compose = RECIPE["model"]["compose"]
    tied = {"config": compose["language"]["config"] | {"tie_word_embeddings": True}}
    changes: Any = {"model": {"compose": compose | {"language": tied}}, "stage": STAGE}
    alone = train(recipe(rows, ALL, **changes), tmp_path / "alone")
    on_processes(4, {tmp_path / "cut": recipe(rows, ALL, {"pipeline": 4}, **changes)})
    same(tmp_path / "cut", alone)


def test_three_directions_on_eight_processes(rows: Path, tmp_path: Path) -> None:
    layouts = {
        "all": {"pipeline": 2, "tensor": 2, "data": 2},
        "hybrid": {"kind": "hybrid", "shard": 2, "tensor": 2},
    }
    alone = train(recipe(rows, stage=STAGE), tmp_path / "alone")
    runs = {tmp_path / name: recipe(rows, ALL, layout, stage=STAGE) for name, layout in layouts.items()}
    on_processes(8, runs)
    for run in runs:
        same(run, alone)


@pytest.mark.parametrize("layout", LAYOUTS[2])
def test_two_stages_with_all_that_comes_along(rows: Path, tmp_path: Path, layout: str) -> None:
    """Averages, recomputation, early stopping, towers frozen at first, the guard, and answers in the end."""
    first = STAGE | {"name": "align", "learn": {"connector": "all"}, "steps": 4, "validate_every": 4}
    second = STAGE | {"name": "see", "ema": 0.5, "gradient_checkpointing": True, "early_stop": {"patience": 9}}
    stages = [recipe(rows, ALL, stage=each).stages[0].model_dump(mode="json") for each in (first, second)]
    changes: Any = {"stages": stages, "guard": {"on": True}, "evaluate": {"data": "train", "validation": "train"}}
    alone = train(recipe(rows, ALL, **changes), tmp_path / "alone")
    run = tmp_path / layout
    on_processes(2, {run: recipe(rows, ALL, LAYOUTS[2][layout], **changes)})
    same(run, alone, STEPS + 4)
    told = [json.loads(line)["kind"] for line in (run / "findings.jsonl").read_text().splitlines()]
    assert "finding" not in told
    assert set(told) == {"not-run"} if layout == "pipeline" else "passed" in told
    answered = [json.loads((path / "evaluation.json").read_text())["accuracy"] for path in (run, alone)]
    assert answered[0] == pytest.approx(answered[1])
