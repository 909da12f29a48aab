"""Augmented stages: the same images whatever the ranks and the micro-batches, streamed or not; counts are told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from sightline.commands.check import check
from sightline.commands.summary import augmented_lines
from sightline.data.augment import Augmenter
from sightline.data.dataset import Rows
from sightline.data.row import Picture, Row, Turn, Where
from sightline.models.build import Built
from sightline.recipe.read import validate
from sightline.train.feed import MicroBatches, plan_steps, supply
from sightline.train.parallel.ranks import Ranks
from sightline.train.run import train
from sightline.train.streamed import StreamedBatches, open_streams
from tests.train.test_streamed import make_shards, spec
from tests.train.tiny import RECIPE, stage

AUGMENT = {"flip": 0.5, "colour": 0.4, "crop": 0.7}


@pytest.fixture
def plain(rows: list[Row]) -> list[Row]:
    """Rows whose words exempt them from nothing."""
    said = (Turn("user", (Picture(), "what is it ?")), Turn("assistant", ("it is it",)))
    return [replace(row, where=Where("rows.jsonl", n), turns=said) for n, row in enumerate(rows, start=1)]


def _feed(built: Built, rows: list[Any], world: int = 1, rank: int = 0, **changes: Any) -> MicroBatches:
    spec = stage(steps=3, batch=4, augment=AUGMENT, **changes).stages[0]
    found, _ = supply(Rows(tuple(rows)), spec, built.encoder, lambda n: None)
    plan, ranks = plan_steps(spec, {"train": len(found)}, world), Ranks(rank, world, torch.device("cpu"))
    assert spec.augment is not None
    return MicroBatches({"train": found}, spec, plan, 0, ranks, None, Augmenter(spec.augment, 0, rows))


def _shown(batches: MicroBatches, step: int) -> dict[str, torch.Tensor]:
    """The images of a step by their keys."""
    per, found = batches.plan.accumulate, {}
    for batch in (batches[i] for i in range(step * per, (step + 1) * per)):
        assert batch.pixel_values is not None
        found |= dict(zip(batch.image_keys, batch.pixel_values, strict=True))
    return found


def test_a_steps_images_do_not_depend_on_how_it_is_dealt(built: Built, plain: list[Row]) -> None:
    whole = _feed(built, plain)
    for step in range(3):
        wanted = _shown(whole, step)
        assert all("|View" in key for key in wanted)
        for dealt in ([_feed(built, plain, micro_batch=1)], [_feed(built, plain, 2, rank) for rank in (0, 1)]):
            found = {key: image for batches in dealt for key, image in _shown(batches, step).items()}
            assert found.keys() == wanted.keys()
            assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    assert _shown(whole, 0).keys().isdisjoint(_shown(whole, 1)), "another step, other images"


@pytest.mark.parametrize("changes", [{"cache_features": True, "learn": {"connector": "all"}}, {"flip": True}])
def test_it_does_not_go_with_one_view_of_each_image(changes: dict[str, Any]) -> None:
    with pytest.raises(Exception, match=r"'augment'|'augment\.flip'"):
        stage(augment=AUGMENT, **changes)


def test_streamed_images_are_changed_alike(built: Built, tmp_path: Path) -> None:
    told = stage(steps=3, batch=4, micro_batch=2, augment={"flip": 1.0, "colour": 0.4}).stages[0]
    assert told.augment is not None
    ranks = Ranks(0, 1, torch.device("cpu"))
    shards = open_streams({"train": spec(make_shards(tmp_path))}, tmp_path / "counts.json", ranks)
    plan = plan_steps(told, {"train": len(shards["train"])}, 1)
    augment = Augmenter(told.augment, 0, ())
    batches = StreamedBatches(shards, {}, told, plan, 0, ranks, built.encoder, augment)
    batch = batches[2]
    assert batch.image_keys and all("|View(flip=True" in key for key in batch.image_keys)
    assert all("saturation=1.0, hue=0.0" in key for key in batch.image_keys), "every answer is a colour"
    again = batches[2]
    assert batch.pixel_values is not None and again.pixel_values is not None
    assert torch.equal(batch.pixel_values, again.pixel_values)


def test_a_run_tells_how_many_rows_are_exempt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = []
    for colour in ("red", "green", "blue"):
        Image.new("RGB", (16, 16), colour).save(tmp_path / f"{colour}.png")
        for question, answer in (("what colour ?", colour), ("is it a dog ?", "no"), ("what is left ?", "a wall")):
            lines.append({"image": f"{colour}.png", "question": question, "answer": answer})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    content = json.loads(json.dumps(RECIPE)) | {
        "data": {"train": {"reader": "table", "path": str(tmp_path / "rows.jsonl")}}
    }
    content["stages"][0] |= {"augment": {"flip": 0.5, "colour": 0.4}, "steps": 3, "pack": "image"}
    run = train(validate(content, "tiny"), tmp_path / "run")
    assert json.loads((run / "run.json").read_text())["stages"][0]["augment"] == {"rows": 9, "flip": 3, "colour": 3}
    told = "see: images are changed where answers stay true; of 9 rows, 3 are never mirrored, 3 keep their colours"
    assert augmented_lines(run) == [told]
    check(validate(content, "tiny"))
    assert told in capsys.readouterr().out
