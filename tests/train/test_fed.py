"""Rows worked out again are the rows that were fed: however they were mixed, packed, sorted, shared or streamed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from sightline.data.batch import Batch
from sightline.data.row import Where
from sightline.doctor.record import read_record
from sightline.errors import UserError
from sightline.recipe.read import validate
from sightline.train import loop
from sightline.train.fed import Fed
from sightline.train.record import rows_print
from sightline.train.run import train
from tests.doctor import planted
from tests.train.test_feed import feed
from tests.train.test_streamed import make_shards, path  # noqa: F401

WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "packed": {"pack": "image", "batch": 2, "steps": 6},
    "sorted by length": {"group_by_length": True, "micro_batch": 2},
    "two data sets": {"data": {"train": 2, "few": 1}},
}


def fed_in(monkeypatch: pytest.MonkeyPatch) -> list[list[Where]]:
    """Filled, while runs train, with the places of the rows of every step."""
    told: list[list[Where]] = []
    real = loop.train_step

    def noted(module: Any, batches: list[Batch], *rest: Any) -> Any:
        told.append([place for batch in batches for place in batch.examples])
        return real(module, batches, *rest)

    monkeypatch.setattr(loop, "train_step", noted)
    return told


@pytest.mark.parametrize("way", list(WAYS))
def test_every_step_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    file, told = planted.rows(tmp_path / "rows", odd=True), fed_in(monkeypatch)
    content = planted.recipe(file).model_dump()
    content["data"]["few"] = content["data"]["train"] | {"limit": 5}
    see = content["stages"][0] | {"steps": 14, "max_length": 30, "over_length": "skip"} | WAYS[way]
    content["stages"] = [see | {"name": "first", "steps": 2, "data": {"few": 1}}, see]
    recipe = validate(content, "tiny")
    run = train(recipe, tmp_path / "run")
    again = Fed(run, recipe, "see")
    steps = recipe.stages[1].steps or 0
    assert [again.rows(step) for step in range(1, steps + 1)] == told[2:]
    prints = read_record(run).prints
    assert prints and all(again.proved(step - 2, one, 1) for step, one in prints.items() if step > 2)
    assert not again.proved(1, rows_print(reversed(again.rows(1))), 1)
    place = again.rows(1)[0]
    assert again.answer(place) == "yes it is"


def test_a_stream(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    told = fed_in(monkeypatch)
    data = {"train": {"reader": "webdataset", "path": str(path), "stream": {"shuffle": 8}}}
    recipe = validate(planted.recipe(path, {"steps": 5}).model_dump() | {"data": data}, "tiny")
    run = train(recipe, tmp_path / "run")
    again = Fed(run, recipe, "see")
    assert [again.rows(step) for step in range(1, 6)] == told
    assert all(again.proved(step, one, 1) for step, one in read_record(run).prints.items())


def test_the_main_ranks_share_proves_the_rows_of_all(built: Any, rows: list[Any], tmp_path: Path) -> None:
    """What the main rank of two is fed has another print than the whole batch, and is known by it."""
    whole, share = (feed(built, rows, world, steps=4, batch=4, micro_batch=1) for world in (1, 2))
    assert sorted(map(str, share.places(1))) < sorted(map(str, whole.places(1)))
    other = feed(built, rows, 2, 1, steps=4, batch=4, micro_batch=1)
    assert sorted(map(str, share.places(1) + other.places(1))) == sorted(map(str, whole.places(1)))
    for batches in (whole, share, other):
        per = batches.plan.accumulate
        assert batches.places(2) == [place for i in range(2 * per, 3 * per) for place in batches[i].examples]


def test_without_the_data_or_the_encoder(tmp_path: Path) -> None:
    file = planted.rows(tmp_path / "rows")
    recipe = planted.recipe(file, {"steps": 2})
    run = train(recipe, tmp_path / "run")
    moved = file.rename(file.with_name("elsewhere.jsonl"))
    with pytest.raises(UserError, match=r"rows\.jsonl"):
        Fed(run, recipe, "see")
    moved.rename(file)
    shutil.rmtree(run / "encoder")
    with pytest.raises(UserError, match="before it wrote its encoder"):
        Fed(run, recipe, "see")


@pytest.mark.ddp
@pytest.mark.slow
def test_a_run_of_two_processes(tmp_path: Path) -> None:
    from tests.train.parallel.runs import on_processes

    recipe = planted.recipe(planted.rows(tmp_path / "rows"), {"steps": 4, "micro_batch": 2})
    run = tmp_path / "run"
    on_processes(2, {run: recipe})
    again, prints = Fed(run, recipe, "see"), read_record(run).prints
    assert prints and all(again.proved(step, one, 2) for step, one in prints.items())
    assert not any(again.proved(step, one, 1) for step, one in prints.items())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [len(line["loss"]) for line in lines if line["event"] == "steps"] == [4]
    assert torch.tensor(lines[-1]["global_step"]) == 4
