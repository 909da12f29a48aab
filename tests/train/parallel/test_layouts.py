"""Every layout trains what one process trains: the same losses, step by step, and the same weights in the end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from sightline.recipe import load, to_yaml
from sightline.train.run import resume, train
from tests.train.parallel.runs import ADAPTED, ALL, FROZEN, STEPS, losses, on_processes, recipe, table
from tests.train.tiny import RECIPE

pytestmark = pytest.mark.ddp

SHARED = {"fsdp": "fsdp", "fsdp-frozen": {"kind": "fsdp", "frozen": "shard"}, "hybrid": {"kind": "hybrid", "shard": 2}}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `table`."""
    return table(tmp_path_factory.mktemp("rows"))


def same(run: Path, alone: Path, steps: int = STEPS, but: tuple[str, ...] = ()) -> None:
    """Equal in losses and in the last weights; `but`: those whose names begin so."""
    assert len(losses(run)) == steps
    for kind in ("train", "validation"):
        assert losses(run, kind) == pytest.approx(losses(alone, kind), abs=1e-5)
    own, expected = (load_file(path / "checkpoints" / "latest" / "model.safetensors") for path in (run, alone))
    assert own.keys() == expected.keys()
    # A key's bias moves no softmax: its gradient is rounding alone, which Adam makes a step of full length.
    told = [name for name in expected if not (name.endswith("k_proj.bias") or name.startswith(but))]
    worst = {name: float((own[name] - expected[name]).abs().max()) for name in told}
    assert max(worst.values()) < 1e-5, max(worst.items(), key=lambda item: item[1])


@pytest.mark.parametrize(
    "layout", ["fsdp-frozen", *(pytest.param(n, marks=pytest.mark.slow) for n in ("fsdp", "hybrid"))]
)
@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "learn",
    [
        pytest.param(ALL, marks=pytest.mark.slow, id="all"),
        pytest.param(FROZEN, id="frozen-vision"),
        pytest.param(ADAPTED, marks=pytest.mark.slow, id="lora"),
    ],
)
def test_losses_and_weights_of_one_process(
    rows: Path, tmp_path: Path, world: int, learn: dict[str, Any], layout: str
) -> None:
    alone = train(recipe(rows, learn), tmp_path / "alone")
    on_processes(world, {tmp_path / "shared": recipe(rows, learn, SHARED[layout])})
    same(tmp_path / "shared", alone)


@pytest.mark.slow
def test_a_checkpoint_goes_on_under_any_other_layout(rows: Path, tmp_path: Path) -> None:
    """Saved at step 10 by one layout and number of processes, taken up by another: the losses of one whole run."""
    alone = train(recipe(rows), tmp_path / "alone")
    saved: Any = {"checkpoints": {"every": 10, "keep": 9}, "log_every": 1}
    on_processes(2, {tmp_path / name: recipe(rows, ALL, name, **saved) for name in ("ddp", "fsdp")})
    once = {tmp_path / "one": recipe(rows, ALL, **saved)}
    train(once[tmp_path / "one"], tmp_path / "one")
    for written in ("one", "ddp", "fsdp"):
        halfway = tmp_path / written / "checkpoints" / "see-10"
        assert (halfway / "shards").is_dir() == (written == "fsdp")
        runs = {copied(tmp_path / written, tmp_path / f"{written}-{k}", k): None for k in ("fsdp", "ddp")}
        on_processes(4 if written == "fsdp" else 2, runs)
        last = copied(tmp_path / written, tmp_path / f"{written}-alone", "ddp")
        resume(last)
        for run in (*runs, last):
            same(run, alone)


def copied(run: Path, to: Path, kind: str) -> Path:
    """`run` as it was when it had saved step 10, to be gone on with under layout `kind`."""
    shutil.copytree(run, to, symlinks=True, ignore=shutil.ignore_patterns("model", "see-20", "latest", "best"))
    (to / "checkpoints" / "latest").symlink_to("see-10")
    (to / "checkpoints" / "best").symlink_to("see-10")
    spec = load(str(to / "recipe.yaml"), [f"parallel.kind={kind}"])
    (to / "recipe.yaml").write_text(to_yaml(spec))
    return to


@pytest.mark.slow
def test_two_stages_with_all_that_comes_along(rows: Path, tmp_path: Path) -> None:
    """Averages, recomputation, a frozen tower whose features are kept, the guard, and answers in the end."""
    first = {"name": "align", "learn": {"connector": "all"}, "steps": 4, "cache_features": True, "validate_every": 4}
    second = {"name": "see", "ema": 0.5, "gradient_checkpointing": True, "early_stop": {"patience": 9}}
    stages = [recipe(rows, ALL, stage=each).stages[0].model_dump(mode="json") for each in (first, second)]
    changes: Any = {"stages": stages, "guard": {"on": True}, "evaluate": {"data": "train", "validation": "train"}}
    alone = train(recipe(rows, ALL, **changes), tmp_path / "alone")
    runs = {
        tmp_path / name: recipe(rows, ALL, layout, **changes) for name, layout in SHARED.items() if name != "hybrid"
    }
    on_processes(2, runs)
    for run in runs:
        same(run, alone, STEPS + 4)
        told = [json.loads(line) for line in (run / "findings.jsonl").read_text().splitlines()]
        assert not [line for line in told if line["kind"] == "finding"]
        assert json.loads((run / "evaluation.json").read_text())["accuracy"] == pytest.approx(
            json.loads((alone / "evaluation.json").read_text())["accuracy"]
        )


@pytest.mark.slow
def test_models_whose_towers_cannot_run_without_an_image(rows: Path, tmp_path: Path) -> None:
    """Adopted ones, and gated cross-attention: a rank with text alone still gathers what the others gather."""
    composed = json.loads(json.dumps(RECIPE["model"]))
    composed["compose"]["vision"]["layer"] = 2  # which a LLaVA can name
    made = train(recipe(rows, model=composed, stage={"steps": 1}), tmp_path / "made")
    gated = json.loads(json.dumps(RECIPE["model"]))
    gated["compose"]["connector"] = {"kind": "gated-cross-attention"}
    for name, model in (("adopted", {"adopt": {"source": str(made / "model")}}), ("gated", gated)):
        alone = train(recipe(rows, model=model), tmp_path / f"{name}-alone")
        runs = {tmp_path / f"{name}-{k}": recipe(rows, ALL, layout, model=model) for k, layout in SHARED.items()}
        on_processes(2, runs)
        for run in runs:
            same(run, alone)
