"""easy-VQA (Zhou 2019, PyPI `easy-vqa`, MIT): questions about one coloured shape on a 64 x 64 picture.

`split` is "train" (4,000 images, 38,575 questions) or "test" (1,000, 9,673), or a range of its images: "train[3600:]".
The field `type` is color, shape, presence ("is there a circle?") or absence ("is there not a circle?").
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from sightline.data.files import Record
from sightline.data.record import answered, image_ref, numbered
from sightline.data.row import Row, Where
from sightline.errors import UserError
from sightline.recipe.schema import DataSpec


def records(spec: DataSpec, name: str) -> Iterator[Record]:
    """(question, answer, image file) of the split, the questions of one image together."""
    try:
        import easy_vqa
    except ImportError as error:
        raise UserError(
            "the package 'easy-vqa' is not installed", where=f"data.{name}", fix="pip install easy-vqa"
        ) from error
    found = re.fullmatch(r"(train|test)(?:\[(\d*):(\d*)\])?", spec.split)
    if not found:
        raise UserError(
            f"easy-VQA has no split '{spec.split}'", where=f"data.{name}.split", fix="train, test or e.g. train[3600:]"
        )
    part, low, high = found.groups()
    questions = easy_vqa.get_train_questions() if part == "train" else easy_vqa.get_test_questions()
    paths = easy_vqa.get_train_image_paths() if part == "train" else easy_vqa.get_test_image_paths()
    wanted = range(len(paths))[int(low or 0) : int(high) if high else None]
    chosen = [(q, a, paths[i], i) for q, a, i in zip(*questions, strict=True) if i in wanted]
    yield from numbered(sorted(chosen, key=lambda one: one[3]), f"easy-vqa/{spec.split}")


def row(record: Any, place: Where, spec: DataSpec) -> Row:
    """The picture, then the question."""
    question, answer, path, _ = record
    image = image_ref(path, place, spec)
    return answered(question, answer, (image,), place, {"type": _type(question)})


def _type(question: str) -> str:
    if "what color" in question or "the color of" in question:
        return "color"
    if question.startswith("what"):
        return "shape"
    return "absence" if re.search(r"\b(no|not)\b", question) else "presence"
