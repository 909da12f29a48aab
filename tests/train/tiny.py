"""A tiny recipe and its model, small enough that a step takes milliseconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from sightline.data.row import ImageRef, Picture, Row, Turn, Where
from sightline.models.build import Built, build
from sightline.recipe.read import validate
from sightline.recipe.schema import Recipe

COLOURS = ("red", "green", "blue", "white", "black", "yellow")

RECIPE: dict[str, Any] = {
    "name": "tiny",
    "summary": "a tiny VLM for tests",
    "model": {
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
            "language": {
                "config": {
                    "model_type": "llama",
                    "hidden_size": 16,
                    "intermediate_size": 32,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 2,
                    "num_key_value_heads": 2,
                }
            },
            "tokenizer": {"build": "words"},
            "template": "qa",
        }
    },
    "data": {"train": {"reader": "table", "path": "rows.jsonl"}, "test": {"reader": "table", "path": "rows.jsonl"}},
    "stages": [
        {
            "name": "see",
            "data": {"train": 1},
            "learn": {"vision": "all", "connector": "all", "language": "all"},
            "lr": 1e-3,
            "steps": 4,
            "batch": 4,
        }
    ],
    "precision": "fp32",
    "device": "cpu",
    "log_every": 1,
}


def recipe(**changes: Any) -> Recipe:
    """The tiny recipe with top-level `changes`."""
    return validate(RECIPE | changes, where="tiny")


def stage(**changes: Any) -> Recipe:
    """The tiny recipe with `changes` to its only stage."""
    return recipe(stages=[RECIPE["stages"][0] | changes])


def fresh(rows: list[Row], seed: int = 0) -> Built:
    """The tiny model, new."""
    torch.manual_seed(seed)
    texts = [turn.text for row in rows for turn in row.turns]
    return build(recipe().model, seed=seed, texts=texts)


def drawn(folder: Path) -> list[Row]:
    """Twelve rows over six one-coloured images; answers of one and of several words."""
    made = []
    for number, colour in enumerate(COLOURS):
        path = folder / f"{colour}.png"
        Image.new("RGB", (16, 16), colour).save(path)
        image = ImageRef(key=str(path), path=path)
        for question, answer in (("what colour is it ?", colour), ("say more .", f"it is {colour} all over")):
            turns = (Turn("user", (Picture(), question)), Turn("assistant", (answer,)))
            made.append(Row(Where("rows.jsonl", number + 1), turns, (image,)))
    return made


def captioned(folder: Path) -> Path:
    """A file of rows in `folder`: six images, and side by side two captions of each."""
    lines = []
    for colour in COLOURS:
        Image.new("RGB", (16, 16), colour).save(folder / f"{colour}.png")
        for caption in (f"all {colour}", f"a wall that is {colour}"):
            lines.append({"image": f"{colour}.png", "question": "say it", "answer": caption})
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
