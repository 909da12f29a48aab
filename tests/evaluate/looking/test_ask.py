"""Conditions put to real models: what blind means for each, and that each image is encoded once a condition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from sightline.commands.summary import describe
from sightline.data.encode_adopted import AdoptedEncoder
from sightline.data.row import Row
from sightline.evaluate.answer import Answerer
from sightline.evaluate.looking.ask import prepare, sample
from sightline.evaluate.run import evaluate
from sightline.models.adopted import AdoptedVLM
from sightline.models.build import build, finish
from sightline.recipe.schema import Adopt, ModelSpec
from tests.data import processors
from tests.evaluate import tiny
from tests.models.families import CONFIGS

T5 = {
    "model_type": "t5", "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 2,
}  # fmt: skip


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    return tiny.questions(tiny.pictures(tmp_path))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"connector": {"kind": "q-former"}}, marks=pytest.mark.slow),
        {"connector": {"kind": "gated-cross-attention"}},
        {"language": {"config": T5}},
    ],
    ids=["q-former", "gated", "encoder-decoder"],
)
def test_composed_models_are_asked_without_an_image(rows: list[Row], changes: dict[str, Any]) -> None:
    spec = ModelSpec.model_validate({"compose": tiny.MODEL["compose"] | changes})
    built = build(spec, seed=0, texts=[turn.text for row in rows for turn in row.turns])
    answerer = Answerer(built, batch=4, max_new_tokens=2)
    blind = prepare(["blind"], rows, answerer, 0)["blind"]
    assert blind is not None and blind.description.startswith("no image") and not any(row.images for row in blind.rows)
    assert len(answerer(blind.rows)) == len(rows)


def test_a_model_that_must_have_an_image_is_shown_a_plain_one_and_says_why(rows: list[Row]) -> None:
    processor, fields = processors.paligemma(), CONFIGS["paligemma"]
    fields = fields | {"text_config": fields["text_config"] | {"vocab_size": len(processor.tokenizer)}}
    model = AutoModelForImageTextToText.from_config(AutoConfig.for_model("paligemma", **fields)).eval()
    built = finish(AdoptedVLM(model, Adopt(source="nowhere")), AdoptedEncoder(processor), ())
    blind = prepare(["blind"], rows, Answerer(built, batch=4, max_new_tokens=2), 0)["blind"]
    assert blind is not None and all(row.images for row in blind.rows)
    assert blind.description.startswith("every image exchanged for a plain one of the tower's mean colour")
    assert "without an image the model takes no question: " in blind.description


def test_each_image_is_encoded_once_in_each_condition(
    rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built, encoded = tiny.model(rows), list[int]()
    original = built.model.encode_images

    def counted(pixels: torch.Tensor) -> torch.Tensor:
        encoded.append(len(pixels))
        return original(pixels)

    monkeypatch.setattr(built.model, "encode_images", counted)
    evaluate(tiny.recipe(leaks=False), built, rows, rows, tmp_path)
    # Their own, blurred ones, and noise, each at most once; the exchanged ones are known by then.
    assert sum(encoded) <= 3 * len(tiny.COLORS)


def test_rows_without_any_image_are_asked_in_no_condition(tmp_path: Path) -> None:
    rows = [tiny.row(number, f"is {number} odd ?", "no") for number in range(1, 9)]
    seen = evaluate(tiny.recipe(), tiny.model(rows), rows, rows, tmp_path)
    conditions = seen["looking"]["conditions"]
    assert {name: facts["accuracy"] for name, facts in conditions.items()} == dict.fromkeys(conditions)
    assert "no question has an image" in conditions["blind"]["description"]
    assert seen["looking"]["verdict"]["says"] == "cannot tell" and seen["looking"]["counterfactual"]["pairs"] == 0


@pytest.mark.slow
def test_of_many_questions_a_sample_of_whole_images_is_asked_again(rows: list[Row], tmp_path: Path) -> None:
    built = tiny.model(rows)
    seen = evaluate(tiny.recipe(looking_questions=7, group_by="type"), built, rows, rows, tmp_path)
    looking = seen["looking"]
    assert (looking["questions"], looking["of"], looking["partial"]) == (7, 13, False)
    assert looking["images"] == 3 and seen["questions"] == 13
    groups = [group["looking"] for group in seen["by_group"].values()]
    assert sum(group["questions"] for group in groups) == 7
    blind = sum(group["questions"] * group["blind"] for group in groups) / 7
    assert blind == pytest.approx(looking["conditions"]["blind"]["accuracy"])
    assert any("(7 were asked again)" in line for line in describe(seen))


def test_a_sample_is_drawn_by_its_seed_and_keeps_images_whole(rows: list[Row]) -> None:
    places = sample(rows, 8, 1)
    shown = {rows[place].images[0].key for place in places}
    assert len(places) <= 8 and places == sorted(places) == sample(rows, 8, 1)
    assert [place for place, row in enumerate(rows) if row.images[0].key in shown] == places
    assert sample(rows, 13, 1) == list(range(13)) and len({tuple(sample(rows, 4, seed)) for seed in range(9)}) > 2
    assert sample(rows, 1, 0) == [0]  # no image has so few questions: then the first ones


def test_only_the_conditions_that_are_asked_for_are_asked(rows: list[Row], tmp_path: Path) -> None:
    built = tiny.model(rows)
    one = evaluate(tiny.recipe(looking=["blind"]), built, rows, rows, tmp_path)
    assert list(one["looking"]["conditions"]) == ["blind"] and "shuffled_images" not in one["baselines"]
    none = evaluate(tiny.recipe(looking=[]), built, rows, rows, tmp_path)
    assert none["looking"]["conditions"] == {} and none["looking"]["verdict"]["says"] == "cannot tell"
    old = evaluate(tiny.recipe(shuffled_images=False), built, rows, rows, tmp_path)
    assert list(old["looking"]["conditions"]) == ["blind", "blurred", "noise"]
