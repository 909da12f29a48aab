"""Whole runs: what they leave behind, and that stopping and going on leaves no trace in the numbers."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from sightline.data.encode_composed import ComposedEncoder
from sightline.errors import UserError
from sightline.guard.watch import GuardError
from sightline.recipe.read import validate
from sightline.train.interrupt import Interrupted
from sightline.train.run import resume, train
from tests.forked import TRAINER, Forks
from tests.train.tiny import COLOURS, RECIPE

DROPOUT = 0.1  # so that a wrong random state shows


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A recipe of two stages with everything that a resume has to carry: dropout, averages, flips, mixing, best."""
    folder = tmp_path_factory.mktemp("data")
    lines = []
    for colour in COLOURS:
        Image.new("RGB", (16, 16), colour).save(folder / f"{colour}.png")
        lines.append({"image": f"{colour}.png", "question": "what colour ?", "answer": colour, "kind": "colour"})
        lines.append(
            {"image": f"{colour}.png", "question": "is it red ?", "answer": "yes" if colour == "red" else "no"}
        )
    for line in lines:
        line.setdefault("kind", "yes-no")
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    made: dict[str, Any] = json.loads(json.dumps(RECIPE))
    made["model"]["compose"]["language"]["config"]["attention_dropout"] = DROPOUT
    # A convolutional tower: batch norm's statistics and channels-last weights are harder to bring back than a ViT.
    made["model"]["compose"]["vision"] = {
        "config": {
            "model_type": "resnet",
            "embedding_size": 8,
            "hidden_sizes": [8, 12],
            "depths": [1, 1],
            "layer_type": "basic",
        },
        "layer": -1,
        "image_size": 16,
    }
    made["model"]["attention"] = "eager"
    made["data"] = {
        "train": {"reader": "table", "path": str(folder / "rows.jsonl")},
        "few": {"reader": "table", "path": str(folder / "rows.jsonl"), "limit": 5},
    }
    see = made["stages"][0] | {
        "data": {"train": 2, "few": 1},
        "steps": 6,
        "micro_batch": 2,
        "ema": 0.9,
        "flip": True,
        "pack": "image",
        "validate_every": 2,
    }
    instruct = made["stages"][0] | {
        "name": "instruct",
        "learn": {"connector": "all"},
        "cache_features": True,
        "steps": 3,
    }
    made["stages"] = [see, instruct]
    made["evaluate"] = {"data": "train", "validation": "few", "max_new_tokens": 3, "group_by": "kind", "gallery": 2}
    made["checkpoints"] = {"every": 2, "keep": 9}
    made["log_every"] = 3
    return made


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    clocked = ("seconds", "sequences_per_s", "images_per_s", "tokens_per_s")
    timeless = [{key: value for key, value in line.items() if key not in clocked} for line in lines]
    return [line for line in timeless if line["event"] == kind]


def assert_same(one: Path, other: Path) -> None:
    """Equal to the bit: every logged number, and every tensor of every checkpoint that both have."""
    for kind in ("train", "validation"):
        assert events(one, kind) == events(other, kind)
    for name in ("see-6", "instruct-3"):
        for file in sorted((one / "checkpoints" / name).glob("*.safetensors")):
            mine, theirs = load_file(file), load_file(other / "checkpoints" / name / file.name)
            assert mine.keys() == theirs.keys()
            assert all(torch.equal(mine[key], theirs[key]) for key in mine), f"{name}/{file.name}"


@pytest.fixture(scope="module")
def whole(content: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody stopped."""
    torch.set_num_threads(1)
    return train(validate(content, "tiny"), tmp_path_factory.mktemp("runs") / "whole")


def test_what_a_run_leaves_behind(whole: Path) -> None:
    facts = json.loads((whole / "run.json").read_text())
    assert facts["status"] == "finished" and facts["error"] is None
    assert [stage["name"] for stage in facts["stages"]] == ["see", "instruct"]
    assert facts["stages"][1]["trainable"]["vision"] == 0 < facts["stages"][1]["frozen"]["vision"]
    assert facts["skipped_count"] == 0
    assert {"recipe.yaml", "metrics.jsonl", "findings.jsonl", "evaluation.json", "report.html", "encoder", "model"} <= {
        path.name for path in whole.iterdir()
    }
    assert [event["step"] for event in events(whole, "train")] == [3, 6, 3]
    assert len(events(whole, "validation")) == 3
    assert json.loads((whole / "evaluation.json").read_text())["questions"] == 12


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run(content: dict[str, Any], whole: Path, tmp_path: Path) -> None:
    assert_same(train(validate(content, "tiny"), tmp_path / "again"), whole)


SCRIPT = textwrap.dedent(
    """
    import json, os, signal, sys
    import torch
    torch.set_num_threads(1)
    from sightline.recipe.read import validate
    from sightline.train import checkpoint
    from sightline.train.interrupt import Interrupted
    from sightline.train.run import train
    from pathlib import Path
    content, out, number, moment = json.loads(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    stage, step = moment.rsplit("-", 1)
    def listen(event):
        if event["event"] == "checkpoint" and event["path"] == "checkpoints/" + moment.removeprefix("in:"):
            os.kill(os.getpid(), number)
    if moment.startswith("in:"):  # die while that checkpoint is being written
        real = checkpoint.save_file
        def dying(tensors, path, *args):
            real(tensors, path, *args)
            if moment.removeprefix("in:") in str(path) and "optimizer" in str(path):
                os.kill(os.getpid(), number)
        checkpoint.save_file = dying
    try:
        train(validate(content, "tiny"), out, listen)
    except Interrupted as interrupted:
        sys.exit(128 + interrupted.signal)
    """
)


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGKILL, "see-2"),
        pytest.param(signal.SIGKILL, "in:see-4", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, "see-4", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "instruct-2", marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, "see-6", marks=pytest.mark.slow),
    ],
    ids=["killed", "killed in a write", "interrupted", "terminated in the second stage", "killed between stages"],
)
def test_a_run_that_was_stopped_ends_as_if_it_was_not(
    content: dict[str, Any], whole: Path, tmp_path: Path, forks: Forks, number: int, moment: str
) -> None:
    out = tmp_path / "stopped"
    (tmp_path / "script.py").write_text(SCRIPT)
    command = ("script.py", json.dumps(content), str(out), str(int(number)), moment)
    ended = forks.run(*command, cwd=tmp_path, knows=TRAINER, check=False)
    assert ended.returncode == (-number if number == signal.SIGKILL else 128 + number), ended.stderr
    if number != signal.SIGKILL:
        assert json.loads((out / "run.json").read_text())["status"] == "interrupted"
    resume(out, validate(content, "tiny"))
    assert_same(out, whole)
    assert json.loads((out / "run.json").read_text())["status"] == "finished"


def test_resuming_with_another_recipe_is_refused(content: dict[str, Any], whole: Path) -> None:
    with pytest.raises(UserError, match=r"another recipe; they differ in seed, stages\.0\.batch"):
        resume(
            whole,
            validate(content | {"seed": 9, "stages": [content["stages"][0] | {"batch": 8}, content["stages"][1]]}, "x"),
        )


@pytest.mark.slow
def test_a_folder_in_use_is_refused(content: dict[str, Any], tmp_path: Path) -> None:
    refused: list[str] = []

    def second(event: dict[str, Any]) -> None:
        if not refused:
            for start in (lambda: train(validate(content, "tiny"), tmp_path / "run"), lambda: resume(tmp_path / "run")):
                with pytest.raises(UserError) as error:
                    start()
                refused.append(str(error.value))

    train(validate(content, "tiny"), tmp_path / "run", second)
    assert len(refused) == 2
    assert all(f"a live run (process {os.getpid()}) is writing here" in text for text in refused)


def test_a_folder_with_something_in_it_is_refused(content: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="something in this folder"):
        train(validate(content, "tiny"), tmp_path)
    with pytest.raises(UserError, match="not a run directory"):
        resume(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_early_stopping_ends_on_the_best_weights(content: dict[str, Any], tmp_path: Path) -> None:
    see = content["stages"][0] | {
        "steps": 40,
        "lr": 0.5,
        "ema": None,
        "validate_every": 1,
        "early_stop": {"patience": 3},
        "flip": False,
    }  # a rate that ruins the model after its first steps
    run = train(validate(content | {"stages": [see], "checkpoints": {"keep": 2}}, "tiny"), tmp_path / "run")
    facts = json.loads((run / "run.json").read_text())["stages"][0]
    seen = [event["loss"] for event in events(run, "validation")]
    assert facts["ended"] == "early-stop" and len(seen) < 40
    assert seen[-4] == min(seen)
    best, last = (
        load_file(run / "checkpoints" / "best" / "model.safetensors"),
        load_file(run / "checkpoints" / "latest" / "model.safetensors"),
    )
    assert all(torch.equal(best[name], last[name]) for name in best)


def test_a_loss_that_is_no_number_stops_the_run(content: dict[str, Any], tmp_path: Path) -> None:
    see = content["stages"][0] | {"lr": 1e30, "ema": None, "steps": 12, "validate_every": None}
    made = content | {"stages": [see], "guard": {"on": False}, "log_every": 1, "evaluate": {"data": None}}
    with pytest.raises(UserError, match="no longer a number"):
        train(validate(made, "tiny"), tmp_path / "run")
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["status"] == "stopped" and "no longer a number" in facts["error"]


def test_a_finished_run_resumed_changes_nothing(content: dict[str, Any], whole: Path) -> None:
    before = events(whole, "train")
    resume(whole)
    assert events(whole, "train") == before


def test_an_interrupt_says_which_signal() -> None:
    assert str(Interrupted(signal.SIGTERM)) == "stopped by SIGTERM"


def test_the_guard_changes_no_number(content: dict[str, Any], whole: Path, tmp_path: Path) -> None:
    assert_same(train(validate(content | {"guard": {"on": False}}, "tiny"), tmp_path / "unguarded"), whole)


def unmasked(encoder: Any, row: Any) -> Any:
    """The fault: all tokens are supervised, the image's too."""
    example = encode(encoder, row)
    return dataclasses.replace(example, labels=example.input_ids)


encode = ComposedEncoder.encode


def test_a_fault_found_before_the_first_step_stops_the_run(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ComposedEncoder, "encode", unmasked)
    with pytest.raises(GuardError) as error:
        train(validate(content, "tiny"), tmp_path / "stopped")
    assert [finding.check for finding in error.value.findings] == ["truncated-image-tokens"]
    assert json.loads((tmp_path / "stopped" / "run.json").read_text())["status"] == "stopped"
    assert not (tmp_path / "stopped" / "metrics.jsonl").exists()  # not one step was taken
    findings = [json.loads(line) for line in (tmp_path / "stopped" / "findings.jsonl").read_text().splitlines()]
    assert [line["check"] for line in findings if line["kind"] == "finding"] == ["truncated-image-tokens"]

    allowed = content | {"guard": {"allow": {"truncated-image-tokens": "images are learnt too"}}}
    run = train(validate(allowed, "tiny"), tmp_path / "allowed")
    lines = [json.loads(line) for line in (run / "findings.jsonl").read_text().splitlines()]
    assert [line["reason"] for line in lines if line["kind"] == "allowed"] == ["images are learnt too"]
    assert not [line for line in lines if line["kind"] == "finding"]


def test_tokens_that_are_only_shown_are_never_run(content: dict[str, Any], tmp_path: Path) -> None:
    """One image has two questions and is drawn late: its packed sequence is shown to the guard without its pixels."""
    path = Path(content["data"]["train"]["path"])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    chosen = [row for row in rows if row["kind"] == "colour" or row["image"] == "red.png"]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen))
    data = {"train": {"reader": "table", "path": str(tmp_path / "rows.jsonl"), "images": str(path.parent)}}
    stage = {"data": {"train": 1}, "batch": 1, "micro_batch": 1, "steps": 2, "validate_every": None, "flip": False}
    made = content | {"data": data, "stages": [content["stages"][0] | stage], "evaluate": {}}
    for seed in range(2):
        run = train(validate(made | {"seed": seed}, "tiny"), tmp_path / str(seed))
        assert json.loads((run / "run.json").read_text())["status"] == "finished"
