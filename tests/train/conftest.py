"""Drawn rows and a tiny model for the trainer's tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from sightline.data.row import ImageRef, Picture, Row, Turn, Where
from sightline.models.build import Built
from tests.train.tiny import COLOURS, fresh


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """Twelve rows over six one-coloured images; answers of one and of several words."""
    folder: Path = tmp_path_factory.mktemp("images")
    made = []
    for number, colour in enumerate(COLOURS):
        path = folder / f"{colour}.png"
        Image.new("RGB", (16, 16), colour).save(path)
        image = ImageRef(key=str(path), path=path)
        for question, answer in (("what colour is it ?", colour), ("say more .", f"it is {colour} all over")):
            turns = (Turn("user", (Picture(), question)), Turn("assistant", (answer,)))
            made.append(Row(Where("rows.jsonl", number + 1), turns, (image,)))
    return made


@pytest.fixture
def built(rows: list[Row]) -> Built:
    """The tiny model, new for each test."""
    return fresh(rows)
