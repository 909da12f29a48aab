"""From nothing to an adopted model: a composed run exports a LLaVA, which another run adopts and fine-tunes by LoRA."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration

from sightline.models.saved import load_run
from sightline.recipe.read import validate
from sightline.recipe.schema import Recipe
from sightline.serve.ask import ask
from sightline.train.run import resume, train
from tests.train.tiny import COLOURS, RECIPE


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("data")
    lines = []
    for colour in COLOURS:
        Image.new("RGB", (16, 16), colour).save(folder / f"{colour}.png")
        lines.append({"image": f"{colour}.png", "question": "what colour ?", "answer": colour})
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {"train": {"reader": "table", "path": str(folder / "rows.jsonl")}}


@pytest.fixture(scope="module")
def exported(data: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported model of a composed run. Hidden state 2 (not the normed -1) is one that LLaVA can name."""
    made: dict[str, Any] = json.loads(json.dumps(RECIPE))
    made["model"]["compose"]["vision"]["layer"] = 2
    run = train(validate(made | {"data": data}, "tiny"), tmp_path_factory.mktemp("runs") / "composed")
    assert "LlavaForConditionalGeneration" in json.loads((run / "run.json").read_text())["export"]["how_to_load"]
    return run / "model"


def adopting(exported: Path, data: dict[str, Any], **stage: Any) -> Recipe:
    learn = {"learn": {"connector": "all", "language": "lora"}, "lr": {"connector": 1e-3, "language": 2e-3}}
    return validate(
        RECIPE
        | {
            "model": {"adopt": {"source": str(exported)}, "lora": {"rank": 2, "alpha": 4, "dropout": 0.1}},
            "data": data,
            "stages": [RECIPE["stages"][0] | learn | stage],
            "evaluate": {"data": "train", "max_new_tokens": 3},
        },
        "adopting",
    )


@pytest.mark.slow
def test_an_exported_run_is_adopted_trained_and_asked(exported: Path, data: dict[str, Any], tmp_path: Path) -> None:
    run = train(adopting(exported, data), tmp_path / "adopted")
    facts = json.loads((run / "run.json").read_text())
    stage = facts["stages"][0]
    assert stage["trainable"]["vision"] == 0 and stage["learn"]["language"] == "lora"
    assert 0 < stage["trainable"]["language"] < stage["frozen"]["language"]
    assert json.loads((run / "evaluation.json").read_text())["questions"] == 6
    findings = [json.loads(line) for line in (run / "findings.jsonl").read_text().splitlines()]
    assert not [line for line in findings if line["kind"] == "finding" and line["severity"] != "note"]
    # The merged export loads without Sightline, and its frozen vision tower is the one it started from.
    alone = LlavaForConditionalGeneration.from_pretrained(run / "model")
    before = LlavaForConditionalGeneration.from_pretrained(exported)
    vision, old = alone.model.vision_tower.state_dict(), before.model.vision_tower.state_dict()
    assert all(torch.equal(vision[name], old[name]) for name in old)
    connector, old = alone.model.multi_modal_projector.state_dict(), before.model.multi_modal_projector.state_dict()
    assert not any(torch.equal(connector[name], old[name]) for name in old)
    image = next(Path(data["train"]["path"]).parent.glob("*.png"))
    assert isinstance("".join(ask(load_run(run), image, "what colour ?", max_new_tokens=3)), str)


@pytest.mark.slow
def test_an_adopted_run_resumes_exactly(exported: Path, data: dict[str, Any], tmp_path: Path) -> None:
    recipe = adopting(exported, data, steps=4)
    whole = train(
        recipe.model_copy(update={"checkpoints": recipe.checkpoints.model_copy(update={"every": 2})}), tmp_path / "a"
    )
    (whole / "checkpoints" / "latest").unlink()
    (whole / "checkpoints" / "latest").symlink_to("see-2")
    expected = load_file(whole / "checkpoints" / "see-4" / "model.safetensors")
    resume(whole)
    found = load_file(whole / "checkpoints" / "see-4" / "model.safetensors")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_and_logs_its_scale(data: dict[str, Any], tmp_path: Path, precision: str) -> None:
    run = train(validate(RECIPE | {"data": data, "precision": precision}, "tiny"), tmp_path / "run")
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [event for event in events if event["event"] == "train"]
    assert steps[-1]["loss"] < steps[0]["loss"] * 1.05
    assert all((event["loss_scale"] is not None) == (precision == "fp16") for event in steps)
    weights = load_file(run / "checkpoints" / "latest" / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float32}


def test_tensorboard_gets_the_same_numbers(data: dict[str, Any], tmp_path: Path) -> None:
    event_file = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    run = train(validate(RECIPE | {"data": data, "track": ["tensorboard"]}, "tiny"), tmp_path / "run")
    (file,) = (run / "tensorboard").iterdir()
    values = {}
    for event in event_file.EventFileLoader(str(file)).Load():
        for value in event.summary.value:
            values[value.tag, event.step] = value.tensor.float_val[0] if value.tensor.float_val else value.simple_value
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [event for event in logged if event["event"] == "train"]
    assert losses
    for event in losses:
        assert values["train/loss", event["global_step"]] == pytest.approx(event["loss"], rel=1e-6)
        assert values["train/grad_norm/vision", event["global_step"]] == pytest.approx(
            event["grad_norm"]["vision"], rel=1e-5
        )


def test_wandb_gets_the_same_numbers(data: dict[str, Any], tmp_path: Path) -> None:
    """Offline, as the suite sets it. Its file keeps each value as the JSON text that would be sent."""
    pytest.importorskip("wandb")
    run = train(validate(RECIPE | {"data": data, "track": ["wandb"]}, "tiny"), tmp_path / "run")
    (file,) = (run / "wandb").glob("offline-run-*/*.wandb")
    kept = file.read_bytes()
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [event["loss"] for event in logged if event["event"] == "train"]
    assert losses and b"train/loss" in kept
    assert all(json.dumps(loss).encode() in kept for loss in losses)
