"""A tiny composed VLM, a few drawn pictures, and questions about them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from sightline.data.row import ImageRef, Picture, Row, Turn, Where
from sightline.models.build import Built, build
from sightline.recipe.schema import Recipe

COLORS = ("red", "green", "blue", "black", "white", "gray")
MODEL: dict[str, Any] = {
    "compose": {
        "vision": {
            "config": {
                "model_type": "siglip_vision_model",
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": 16,
                "patch_size": 8,
            },
            "layer": -1,
        },
        "connector": {"kind": "mlp"},
        "language": {
            "config": {
                "model_type": "llama",
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
            }
        },
        "tokenizer": {"build": "words"},
        "template": "qa",
    }
}


def recipe(**evaluate: Any) -> Recipe:
    """A recipe around the tiny model whose test set is called "test"."""
    stage = {"name": "see", "data": {"test": 1}, "learn": {"language": "all"}, "lr": 1e-3, "steps": 1, "batch": 2}
    return Recipe.model_validate(
        {
            "name": "tiny",
            "summary": "a tiny run",
            "model": MODEL,
            "data": {"test": {"reader": "messages", "path": "test.json"}},
            "stages": [stage],
            "evaluate": {"data": "test", "max_new_tokens": 3, "batch": 4, **evaluate},
        }
    )


def pictures(folder: Path) -> list[ImageRef]:
    """One plain picture of each color."""
    refs = []
    for color in COLORS:
        path = folder / f"{color}.png"
        Image.new("RGB", (16, 16), color).save(path)
        refs.append(ImageRef(str(path), path=path))
    return refs


def row(number: int, question: str, answer: str, *images: ImageRef, **fields: str) -> Row:
    """A question with its pictures before it."""
    turns = (Turn("user", (*(Picture() for _ in images), question)), Turn("assistant", (answer,)))
    return Row(Where("test.json", number), turns, images, fields)


def questions(refs: list[ImageRef]) -> list[Row]:
    """Two kinds of questions about each picture, of different lengths, and one row that asks the same once more."""
    rows = []
    for ref, color in zip(refs, COLORS, strict=True):
        rows.append(row(len(rows) + 1, "what color is the whole picture ?", color, ref, type="color"))
        rows.append(row(len(rows) + 1, "is it red ?", "yes" if color == "red" else "no", ref, type="yes/no"))
    return [*rows, row(len(rows) + 1, "is it red ?", "yes", refs[0], type="yes/no")]


def model(rows: list[Row]) -> Built:
    """The tiny model, made anew with the words of `rows`."""
    texts = [turn.text for each in rows for turn in each.turns]
    return build(recipe().model, seed=0, texts=texts)
