"""Whole runs of a model that chooses its answers: trained, stopped and gone on with, judged, kept, asked."""

from __future__ import annotations

import copy
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from sightline.data.dataset import read_rows
from sightline.errors import UserError
from sightline.evaluate.answer import Answerer
from sightline.models.saved import load_model, load_run
from sightline.recipe.read import validate
from sightline.recipe.schema import Recipe
from sightline.serve.ask import ask
from sightline.train.interrupt import Interrupted
from sightline.train.run import resume, train
from tests.ports import free_port
from tests.spawned import spawn
from tests.train.tiny import COLOURS, RECIPE

VOCABULARY = ("no", "black", "blue", "green", "red", "white", "yellow", "yes")  # by frequency, then by the alphabet


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("data")
    lines: list[dict[str, Any]] = []
    for colour in COLOURS:
        Image.new("RGB", (16, 16), colour).save(folder / f"{colour}.png")
        lines.append({"image": f"{colour}.png", "question": "what colour ?", "answer": colour})
        said = "yes" if colour == "red" else "no"
        lines.append({"image": f"{colour}.png", "question": "is it red ?", "answer": said})
    lines.append({"image": None, "question": "is blue a colour ?", "answer": "zebra"})
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    made: dict[str, Any] = copy.deepcopy(RECIPE)
    made["model"]["compose"]["head"] = {"answers": 8, "min_count": 1, "dropout": 0.3}
    made["data"] = {"train": {"reader": "table", "path": str(folder / "rows.jsonl")}}
    towers = {"vision": "all", "connector": "all", "language": "all", "head": "all"}
    made["stages"][0] |= {"objective": "answers", "learn": towers, "steps": 6, "micro_batch": 2, "pack": "image"}
    made["stages"][0] |= {"lr": 1e-2, "validate_every": 3}
    made["evaluate"] = {"data": "train", "validation": "train", "batch": 4}
    made["checkpoints"] = {"every": 2, "keep": 9}
    return made


@pytest.fixture(scope="module")
def whole(content: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(validate(content, "tiny"), tmp_path_factory.mktemp("runs") / "whole")


def scores(recipe: Recipe, built: Any) -> torch.Tensor:
    rows = read_rows(recipe.data["train"], "train").rows
    found: torch.Tensor = Answerer(built, batch=4, max_new_tokens=1).scores(rows)
    return found


@pytest.mark.slow
def test_what_a_run_tells_of_its_answers(content: dict[str, Any], whole: Path) -> None:
    facts = json.loads((whole / "run.json").read_text())
    assert facts["stages"][0]["answers"] == {"vocabulary": 8, "rows": 13, "outside_vocabulary": 1}
    assert facts["stages"][0]["trainable"]["head"] == facts["towers"]["head"]["parameters"] > 0
    assert facts["skipped_count"] == 0
    events = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [event["tokens"] for event in events if event["event"] == "validation"] == [13, 13]
    last = next(event for event in reversed(events) if event["event"] == "train")
    assert last["lr"].keys() == last["update_ratio"].keys() == {"vision", "connector", "language", "head"}
    found = [json.loads(line) for line in (whole / "findings.jsonl").read_text().splitlines()]
    assert not [line for line in found if line["kind"] == "finding"]
    said = [json.loads(line) for line in (whole / "predictions.jsonl").read_text().splitlines()]
    assert len(said) == 13 and {line["answer"] for line in said} <= set(VOCABULARY)
    assert all(0 < line["confidence"] < 1 for line in said)
    evaluation = json.loads((whole / "evaluation.json").read_text())
    assert evaluation["vocabulary"] == {"answers": 8, "out_of_reach": 1, "ceiling": pytest.approx(12 / 13)}


@pytest.mark.slow
def test_a_run_that_was_stopped_ends_as_if_it_was_not(content: dict[str, Any], whole: Path, tmp_path: Path) -> None:
    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "checkpoint" and event["step"] == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        train(validate(content, "tiny"), tmp_path / "stopped", stop)
    resume(tmp_path / "stopped")
    for file in (whole / "checkpoints" / "see-6").glob("*.safetensors"):
        mine, theirs = load_file(file), load_file(tmp_path / "stopped" / "checkpoints" / "see-6" / file.name)
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine), file.name
    assert (tmp_path / "stopped" / "predictions.jsonl").read_text() == (whole / "predictions.jsonl").read_text()
    rows = Path(content["data"]["train"]["path"])
    before = rows.read_text()
    try:
        rows.write_text(before.replace('"answer": "yellow"', '"answer": "gold"'))
        with pytest.raises(UserError, match="they differ from 'gold' on"):
            resume(tmp_path / "stopped")
    finally:
        rows.write_text(before)


def test_what_is_loaded_or_exported_gives_the_same_scores(content: dict[str, Any], whole: Path) -> None:
    recipe = validate(content, "tiny")
    built, exported = load_run(whole), load_model(whole / "model")
    assert built.answers is not None and exported.answers is not None
    assert built.answers.answers == exported.answers.answers == VOCABULARY
    told = scores(recipe, built)
    assert told.shape == (13, 8) and torch.equal(told, scores(recipe, exported))
    assert "load_model" in json.loads((whole / "run.json").read_text())["export"]["how_to_load"]


def test_answers_are_the_likeliest_ones_and_asked_alone_they_are_the_same(content: dict[str, Any], whole: Path) -> None:
    recipe, built = validate(content, "tiny"), load_run(whole)
    rows = read_rows(recipe.data["train"], "train").rows
    answerer = Answerer(built, batch=5, max_new_tokens=1)
    told = answerer.scores(rows)
    assert answerer.vocabulary == VOCABULARY
    best = [VOCABULARY[int(place)] for place in told.argmax(1)]
    confident = answerer.confident(rows)
    assert answerer(rows) == best == [answer for answer, _ in confident]
    assert [p for _, p in confident] == pytest.approx(told.max(1).values.tolist())
    for row, answer in zip(rows, best, strict=True):
        if row.images and row.images[0].path:
            assert "".join(ask(built, row.images[0].path, row.question)) == answer
        alone = Answerer(built, batch=1, max_new_tokens=1).scores([row])
        torch.testing.assert_close(alone[0], told[rows.index(row)], rtol=1e-5, atol=1e-6)


def test_a_stage_that_writes_may_come_first_and_the_next_stop_by_its_answers(
    content: dict[str, Any], tmp_path: Path
) -> None:
    chain = copy.deepcopy(content)
    choose = chain["stages"][0] | {"name": "choose", "validate_every": 2, "early_stop": {"metric": "accuracy"}}
    towers = {"vision": "all", "connector": "all", "language": "all"}
    write = chain["stages"][0] | {"objective": "next-token", "learn": towers, "steps": 2, "validate_every": None}
    chain |= {"stages": [write, choose | {"steps": 4}], "evaluate_after": {"see": {"data": "train"}}, "checkpoints": {}}
    chain["evaluate_after"]["see"]["metric"] = "perplexity"
    chain["guard"] = {"on": False}
    run = train(validate(chain, "tiny"), tmp_path / "run")
    first, second = json.loads((run / "run.json").read_text())["stages"]
    assert (first["trainable"]["head"], "answers" in first) == (0, False) and second["trainable"]["head"] > 0
    words = dict(load_run(run).model.named_parameters())["language.lm_head.weight"]
    assert second["frozen"]["language"] == words.numel()  # nothing reaches them
    assert json.loads((run / "after-see" / "evaluation.json").read_text())["perplexity"] > 1
    told = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    marks = [event["accuracy"] for event in told if event["event"] == "validation"]
    assert len(marks) == 2 and all(0 <= mark <= 1 for mark in marks)


@pytest.mark.slow
def test_it_learns_the_answers_by_heart(content: dict[str, Any], tmp_path: Path) -> None:
    more = copy.deepcopy(content)
    more["stages"][0] |= {"steps": 120, "validate_every": None}
    more["model"]["compose"]["head"]["dropout"] = 0.0
    more |= {"checkpoints": {}, "guard": {"on": False}, "log_every": 60}
    run = train(validate(more, "tiny"), tmp_path / "run")
    lines = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    assert sum(line["answer"] == line["truth"] for line in lines) == 12  # all but the one outside the vocabulary


def work(rank: int, port: int, content: dict[str, Any], out: str) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = str(port)
    torch.set_num_threads(1)
    train(validate(content, "tiny"), Path(out))


@pytest.mark.slow
@pytest.mark.ddp
def test_two_ranks_give_the_losses_of_one(content: dict[str, Any], tmp_path: Path) -> None:
    plain = copy.deepcopy(content)
    plain["model"]["compose"]["head"]["dropout"] = 0.0
    alone = train(validate(plain, "tiny"), tmp_path / "alone")
    spawn(work, (free_port(), plain, str(tmp_path / "pair")), nprocs=2)
    told = []
    for run in (alone, tmp_path / "pair"):
        events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        told.append([event["loss"] for event in events if event["event"] in ("train", "validation")])
    assert len(told[0]) == 8 and told[1] == pytest.approx(told[0], rel=1e-4)
