"""Judging a model over pairs: each image once, in any batch size, and the right errors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from sightline.data.row import ImageRef, Picture, Row, Turn, Where
from sightline.errors import UserError
from sightline.evaluate.run import evaluate
from sightline.models.build import Built, build
from sightline.models.saved import load_model
from sightline.recipe.read import validate
from sightline.recipe.schema import Recipe
from tests.train.tiny import COLOURS, RECIPE

TEXT = {
    "model_type": "clip_text_model",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 8,
}


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    """Two captions of each of six pictures, and the captions of one picture far apart."""
    made = []
    for words in ("a {} field", "it is {}"):
        for number, colour in enumerate(COLOURS):
            path = tmp_path / f"{colour}.png"
            Image.new("RGB", (16, 16), colour).save(path)
            turns = (Turn("user", (Picture(),)), Turn("assistant", (words.format(colour),)))
            made.append(Row(Where("rows.jsonl", number + 1), turns, (ImageRef(key=str(path), path=path),)))
    return made


def recipe_of(**evaluation: Any) -> Recipe:
    vision = RECIPE["model"]["compose"]["vision"]
    pair = {"vision": vision, "language": {"config": TEXT}, "tokenizer": {"build": "words"}, "embed": 8, "pool": "mean"}
    stages = [RECIPE["stages"][0] | {"objective": {"itc": 1}}]
    asked = {"data": "test", "metric": "retrieval", "batch": 5} | evaluation
    return validate(RECIPE | {"model": {"pair": pair}, "stages": stages, "evaluate": asked}, where="tiny")


def built_for(rows: list[Row]) -> Built:
    return build(recipe_of().model, seed=0, texts=[row.answer for row in rows])


def by_hand(built: Built, rows: list[Row]) -> tuple[float, float]:
    """Recall at 1 both ways, one pair at a time, in plain loops."""
    assert built.pairs is not None
    images: dict[str, torch.Tensor] = {}
    texts: list[tuple[str, torch.Tensor]] = []
    built.model.eval()
    from sightline.data.pack import pack

    for row in rows:
        with torch.no_grad():
            found = built.model.represent(built.pairs.collate(pack([built.pairs.encode(row)], "none", 8)))  # type: ignore[operator]
        images[row.images[0].key] = found.image[0]
        texts.append((row.images[0].key, found.text[0]))
    to_image = [max(images, key=lambda key: float(images[key] @ text)) == own for own, text in texts]
    to_text = [max(texts, key=lambda one: float(one[1] @ image))[0] == key for key, image in images.items()]
    return sum(to_text) / len(to_text), sum(to_image) / len(to_image)


@pytest.mark.parametrize("batch", [1, 5, 64])
def test_recall_is_that_of_plain_loops(rows: list[Row], tmp_path: Path, batch: int) -> None:
    built = built_for(rows)
    found = evaluate(recipe_of(batch=batch), built, rows, [], tmp_path)
    assert (found["images"], found["questions"]) == (6, 12)
    assert (found["image_to_text"]["recall"]["1"], found["text_to_image"]["recall"]["1"]) == by_hand(built, rows)
    assert found["text_to_image"]["chance"]["1"] == pytest.approx(1 / 6)
    assert json.loads((tmp_path / "evaluation.json").read_text())["metric"] == "retrieval"


def test_a_saved_model_retrieves_the_same(rows: list[Row], tmp_path: Path) -> None:
    built = built_for(rows)
    built.model.save(tmp_path / "model")
    again = load_model(tmp_path / "model")
    first, second = (evaluate(recipe_of(), each, rows, [], tmp_path) for each in (built, again))
    assert {**first, "seconds": 0} == {**second, "seconds": 0}


def test_one_image_is_nothing_to_choose_from(rows: list[Row], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least two different images"):
        evaluate(recipe_of(), built_for(rows), [rows[0], rows[6]], [], tmp_path)


def test_reranking_needs_a_head(rows: list[Row], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no matching head"):
        evaluate(recipe_of(rerank=2), built_for(rows), rows, [], tmp_path)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda row: replace(row, images=(), turns=row.turns[1:]), "0 images"),
        (lambda row: replace(row, turns=(row.turns[0], Turn("assistant", ("it is red " * 9,)))), "tokens"),
    ],
    ids=["no image", "a text beyond the tower"],
)
def test_a_row_that_is_no_pair(rows: list[Row], tmp_path: Path, spoil: Any, told: str) -> None:
    with pytest.raises(UserError, match=told):
        evaluate(recipe_of(), built_for(rows), [*rows, spoil(rows[0])], [], tmp_path)


def test_two_towers_answer_no_questions() -> None:
    with pytest.raises(UserError, match="retrieval"):
        recipe_of(metric="exact-match")
