"""Captions for easy-VQA's pictures, said by their own questions and answers: "a teal circle".

One row an image, in the order of `easy-vqa`, whose splits it shares. An image gets a caption where its questions and
answers name both its colour and its shape: 3,542 of 4,000 training images and 880 of 1,000 test images.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from sightline.data.files import Record
from sightline.data.readers import easy_vqa
from sightline.data.record import answered, image_ref, numbered
from sightline.data.row import Row, Where
from sightline.recipe.schema import DataSpec

COLOURS = frozenset(("black", "blue", "brown", "gray", "green", "red", "teal", "yellow"))
SHAPES = frozenset(("circle", "rectangle", "triangle"))


def records(spec: DataSpec, name: str) -> Iterator[Record]:
    """(caption, image file) of the split's images that can be named. Raises UserError as easy-VQA's reader does."""
    questions = (record for _, record in easy_vqa.records(spec, name))
    captioned = []
    for _, group in groupby(questions, key=lambda record: record[3]):
        asked = list(group)
        said = {word for question, answer, *_ in asked for word in _named(question, answer)}
        colour, shape = said & COLOURS, said & SHAPES
        if colour and shape:
            captioned.append((f"a {min(colour)} {min(shape)}", asked[0][2]))
    yield from numbered(captioned, f"easy-vqa-captions/{spec.split}")


def row(record: Any, place: Where, spec: DataSpec) -> Row:
    """The picture, then its caption."""
    caption, path = record
    return answered(None, caption, (image_ref(path, place, spec),), place, {"caption": caption})


def _named(question: str, answer: str) -> set[str]:
    """The words that are true of the picture."""
    denied = bool(re.search(r"\b(no|not)\b", question))
    if answer in ("yes", "no") and (answer == "yes") == denied:
        return set()
    return set(re.findall("[a-z]+", f"{question} {answer}"))
