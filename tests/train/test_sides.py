"""What changing images does to answers, by behaviour: mirrored without asking, sides cannot be learned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sightline.recipe.read import validate
from sightline.train.run import train
from tests.train.tiny import RECIPE

COLOURS = ("red", "green", "blue", "white", "yellow", "cyan")


def _recipe(folder: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """Pictures of which one half is coloured: which one? Every picture has its mirror image among the others."""
    lines = []
    for colour in COLOURS:
        for side, place in (("left", 0), ("right", 8)):
            picture = Image.new("RGB", (16, 16), "black")
            picture.paste(colour, (place, 0, place + 8, 16))
            picture.save(folder / f"{colour}-{side}.png")
            lines.append({"image": f"{colour}-{side}.png", "question": "on which side is it ?", "answer": side})
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    made: dict[str, Any] = json.loads(json.dumps(RECIPE))
    towers = made["model"]["compose"]
    towers["vision"]["config"] |= {"hidden_size": 32, "intermediate_size": 64}
    towers["language"]["config"] |= {"hidden_size": 32, "intermediate_size": 64, "initializer_range": 0.1}
    made["data"] = {"train": {"reader": "table", "path": str(folder / "rows.jsonl")}}
    stop = {"metric": "accuracy", "patience": 99}
    made["stages"][0] |= {"steps": 120, "batch": 12, "lr": 3e-3, "validate_every": 120, "early_stop": stop, **changes}
    return made | {"evaluate": {"validation": "train", "max_new_tokens": 2}, "guard": {"on": False}, "log_every": 50}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "least", "most"),
    [({}, 0.95, 1.0), ({"augment": {"flip": 0.5}}, 0.95, 1.0), ({"flip": True}, 0.0, 0.7)],
    ids=["as they are", "augmented", "mirrored without asking"],
)
def test_sides(tmp_path: Path, changes: dict[str, Any], least: float, most: float) -> None:
    run = train(validate(_recipe(tmp_path, changes), "tiny"), tmp_path / "run")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (seen,) = [line["accuracy"] for line in lines if line["event"] == "validation"]
    assert least <= seen <= most, seen
