"""Early stopping by the accuracy of answers: which weights are kept, and that a run that goes on notices nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from sightline.commands.preflight import look
from sightline.errors import UserError
from sightline.recipe.read import validate
from sightline.train.run import resume, train
from tests.train.tiny import COLOURS, RECIPE

DROPOUT = 0.1  # so that a wrong random state shows
UNWATCHED: dict[str, Any] = {"guard": {"on": False}}  # which changes no number, and is quicker


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A recipe whose questions ten people answered, validated by an accuracy that rises and then falls."""
    folder = tmp_path_factory.mktemp("data")
    questions, notes = [], []
    for number, colour in enumerate(COLOURS, start=1):
        Image.new("RGB", (16, 16), colour).save(folder / f"{number}.png")
        answers = [{"answer": colour, "answer_id": i} for i in range(8)] + [{"answer": "grey", "answer_id": 9}] * 2
        questions.append({"question_id": number, "image_id": number, "question": "what colour ?"})
        notes.append({"question_id": number, "image_id": number, "answers": answers})
    (folder / "questions.json").write_text(json.dumps({"questions": questions}))
    (folder / "annotations.json").write_text(json.dumps({"annotations": notes}))
    made: dict[str, Any] = json.loads(json.dumps(RECIPE))
    made["model"]["compose"]["language"]["config"]["attention_dropout"] = DROPOUT
    files = {"path": str(folder / "questions.json"), "annotations": str(folder / "annotations.json")}
    made["data"] = {"train": {"reader": "vqa", "file_name": "{image_id}.png", **files}}
    made["stages"][0] |= {"data": {"train": 1}, "steps": 40, "lr": 0.02, "batch": 6, "validate_every": 3}
    made["stages"][0]["schedule"] = {"kind": "constant", "warmup": 0}
    made["stages"][0]["early_stop"] = {"metric": "accuracy", "patience": 4}
    made["evaluate"] = {"validation": "train", "metric": "vqa", "rule": "official", "max_new_tokens": 2}
    made["checkpoints"] = {"every": 4, "keep": 99}
    return made


def _events(run: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    clocked = ("seconds", "sequences_per_s", "images_per_s", "tokens_per_s")
    return [{k: v for k, v in line.items() if k not in clocked} for line in lines if line["event"] == kind]


def _weights(run: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / name / "model.safetensors")


@pytest.fixture(scope="module")
def whole(content: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return train(validate(content, "tiny"), tmp_path_factory.mktemp("runs") / "whole")


@pytest.mark.slow
def test_the_stage_ends_on_its_most_accurate_weights(whole: Path) -> None:
    seen = _events(whole, "validation")
    accuracies = [event["accuracy"] for event in seen]
    best = accuracies.index(max(accuracies))  # the first of the best: a tie is no improvement
    assert accuracies[best] > accuracies[0], "it has learned something"
    assert all(0 <= accuracy <= 1 for accuracy in accuracies)
    facts = json.loads((whole / "run.json").read_text())["stages"][0]
    assert facts["ended"] == "early-stop" and len(seen) == best + 5, "four more, none better"
    kept = (whole / "checkpoints" / "best").resolve().name
    assert kept == f"see-{seen[best]['step']}"
    mine, theirs = _weights(whole, "latest"), _weights(whole, "best")
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.slow
def test_answering_changes_no_number_of_the_training(content: dict[str, Any], whole: Path, tmp_path: Path) -> None:
    see = content["stages"][0] | {"early_stop": None, "steps": 12}
    plain = train(validate(content | UNWATCHED | {"stages": [see]}, "tiny"), tmp_path / "plain")
    losses = [event["loss"] for event in _events(plain, "train")]
    assert losses == [event["loss"] for event in _events(whole, "train")][: len(losses)]
    assert "accuracy" not in _events(plain, "validation")[0]


class _Stop(Exception):
    """What pulls the plug."""


@pytest.mark.slow
def test_a_run_that_was_stopped_stops_early_where_it_would_have(
    content: dict[str, Any], whole: Path, tmp_path: Path
) -> None:
    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "checkpoint" and event["path"] == "checkpoints/see-8":
            raise _Stop

    with pytest.raises(_Stop):
        train(validate(content | UNWATCHED, "tiny"), tmp_path / "run", listen)
    resume(tmp_path / "run")
    for kind in ("train", "validation"):
        assert _events(tmp_path / "run", kind) == _events(whole, kind)
    mine, theirs = _weights(tmp_path / "run", "latest"), _weights(whole, "latest")
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.slow
def test_a_smaller_gain_than_asked_for_is_none(content: dict[str, Any], whole: Path, tmp_path: Path) -> None:
    see = content["stages"][0] | {"early_stop": {"metric": "accuracy", "patience": 2, "min_delta": 1.0}}
    run = train(validate(content | UNWATCHED | {"stages": [see]}, "tiny"), tmp_path / "run")
    assert len(_events(run, "validation")) == 3
    assert (run / "checkpoints" / "best").resolve().name == "see-3"


def test_the_guard_sees_nothing_wrong_in_it(whole: Path) -> None:
    found = [json.loads(line) for line in (whole / "findings.jsonl").read_text().splitlines()]
    assert [line["check"] for line in found if line["kind"] == "finding" and line["severity"] == "error"] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": {"itc": 1}, "pack": "none"}, "a stage over pairs answers no questions"),
        ({"validate_every": None}, "needs 'validate_every'"),
    ],
)
def test_what_cannot_be_measured_is_refused(content: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=message):
        validate(content | {"stages": [content["stages"][0] | changes]}, "tiny")


def test_stopping_early_needs_something_to_go_by(content: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="'see' stops early, and no data set is named to validate on"):
        validate(content | {"evaluate": {}}, "tiny")


@pytest.mark.parametrize("asked", [{"data": "test", "validation": "train"}, {"validation": "test"}])
def test_questions_without_answers_are_told_before_the_first_step(
    content: dict[str, Any], tmp_path: Path, asked: dict[str, str]
) -> None:
    test = {**content["data"]["train"]}
    del test["annotations"]
    made = content | {"data": content["data"] | {"test": test}, "evaluate": {"metric": "vqa", **asked}}
    with pytest.raises(UserError, match=r"questions.json row 1: the row holds"):
        train(validate(made, "tiny"), tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert any("the row holds" in str(fault) for fault in look(validate(made, "tiny")).faults)
    one = made | {"evaluate": {"metric": "none", "data": "test", "validation": "train"}}
    assert not look(validate(one, "tiny")).faults, "an accuracy is taken of train alone"
