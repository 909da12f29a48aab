"""The gallery: a few test pictures with what was asked, what the model said and what is true, right and wrong."""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Sequence

from PIL import Image

from sightline.data.images import load_image
from sightline.data.row import Row

THUMBNAIL = 160  # pixels of the longer side
Picture = dict[str, str | bool | None]


def gallery(rows: Sequence[Row], answers: Sequence[str], correct: Sequence[bool | None], size: int) -> list[Picture]:
    """Up to `size` entries of rows with an image, wrong answers first; `correct` is None where nothing is scored."""
    pictures: list[Picture] = []
    for place in choose(rows, correct, size):
        row = rows[place]
        pictures.append(
            {
                "thumbnail": thumbnail(load_image(row.images[0], row.where)),
                "question": row.question,
                "answer": answers[place],
                "truth": row.answer,
                "correct": correct[place],
            }
        )
    return pictures


def choose(rows: Sequence[Row], correct: Sequence[bool | None], size: int, seed: int = 0) -> list[int]:
    """Places of up to `size` rows: half of them wrong and half right as far as there are so many, images all different
    as far as there are so many, the same for the same seed.
    """
    places = [place for place, row in enumerate(rows) if row.images]
    random.Random(seed).shuffle(places)
    places = _distinct_first(rows, places)
    wrong = [place for place in places if not correct[place]]
    right = [place for place in places if correct[place]]
    n_wrong = min(len(wrong), max(size // 2, size - len(right)))
    return wrong[:n_wrong] + right[: size - n_wrong]


def thumbnail(image: Image.Image) -> str:
    """`image` as a PNG data URI whose longer side is at most THUMBNAIL pixels (never enlarged)."""
    small = image.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _distinct_first(rows: Sequence[Row], places: list[int]) -> list[int]:
    seen: set[str] = set()
    fresh: list[int] = []
    again: list[int] = []
    for place in places:
        key = rows[place].images[0].key
        (again if key in seen else fresh).append(place)
        seen.add(key)
    return fresh + again
