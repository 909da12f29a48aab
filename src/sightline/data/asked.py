"""Questions and what people answered, as the readers of VQA data sets make rows of them."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any

from sightline.data.encode import RowError
from sightline.data.record import image_ref
from sightline.data.row import ImageRef, Picture, Row, Turn, Where
from sightline.errors import UserError
from sightline.recipe.schema import DataSpec

NO_IMAGES = "none"  # `file_name`: the questions alone, e.g. to see how far they go without their images


def asked(
    question: Any,
    images: tuple[ImageRef, ...],
    answers: tuple[str, ...] | None,
    place: Where,
    spec: DataSpec,
    *,
    fields: Mapping[str, Any],
    common: str | None = None,
) -> Row:
    """A row of one question.

    Args:
        answers: what people answered; None in a split without answers, whose row ends with the question.
        fields: those of None are left out; `question_id` tells samples apart.
        common: the most common answer, where the data set says which of several equally common ones it takes.

    Raises:
        RowError: the question is no text.
    """
    if not isinstance(question, str) or not question.strip():
        raise RowError(f"its question is {question!r:.60}, not text", place)
    text = spec.prompt.replace("{question}", question)
    turns = [Turn("user", (*(Picture() for _ in images), text))]
    told = {key: sys.intern(str(value)) for key, value in fields.items() if value is not None}
    if text != question:
        told["question"] = question
    if answers is None:
        return Row(place, tuple(turns), images, told)
    chosen = sampled(answers, spec.seed, told["question_id"]) if spec.target == "sampled" else common
    turns.append(Turn("assistant", (chosen or most_common(answers),)))
    return Row(place, tuple(turns), images, told, answers)


def people_said(listed: Any, place: Where) -> tuple[str, ...]:
    """The answers of a list of strings or of objects with `answer`. Raises RowError where there is none."""
    if not isinstance(listed, list) or not listed:
        raise RowError(f"its answers are {listed!r:.60}, not a list of what people said", place)
    answers: list[str] = []
    for number, each in enumerate(listed, start=1):
        answer = each.get("answer") if isinstance(each, Mapping) else each
        if not isinstance(answer, str):
            raise RowError(f"its answer {number} is {answer!r:.60}, not text", place)
        answers.append(sys.intern(answer))  # of the millions of a data set few are different
    if not any(answer.strip() for answer in answers):
        raise RowError(f"its {len(answers)} answers are all empty", place)
    return tuple(answers)


def most_common(answers: Iterable[str]) -> str:
    """The answer that most people gave; of equally common ones, the first that was given."""
    return Counter(answer for answer in answers if answer.strip()).most_common(1)[0][0]


def sampled(answers: tuple[str, ...], seed: int, question: str) -> str:
    """One person's answer, so that an answer comes as often as people gave it; always the same for a seed."""
    given = [answer for answer in answers if answer.strip()]
    digest = hashlib.blake2b(f"{seed}/{question}".encode(), digest_size=8).digest()
    return given[int.from_bytes(digest, "little") % len(given)]


def image_named(spec: DataSpec, default: str, place: Where, image_id: Any, **parts: str) -> tuple[ImageRef, ...]:
    """The image that the recipe's `file_name` (else `default`) makes of `image_id`; none at all where it is "none".

    Raises:
        RowError: no id, or no such image. UserError: `file_name` is no pattern for this id.
    """
    if spec.file_name == NO_IMAGES:
        return ()
    if not isinstance(image_id, int | str) or image_id == "":
        raise RowError(f"its image id is {image_id!r:.60}", place)
    pattern = spec.file_name or default
    try:
        name = pattern.format(image_id=image_id, **parts)
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(
            f"'{pattern}' is no file name for image {image_id!r}: {error}",
            where="file_name",
            fix="write e.g. COCO_val2014_{image_id:012d}.jpg, or {image_id}.jpg for ids that are no numbers",
        ) from error
    return (image_ref(name, place, spec),)


class Seen:
    """Ids that must not come twice."""

    def __init__(self, what: str, key: str) -> None:
        self._what, self._key = what, key
        self._places: dict[Hashable, Where] = {}

    def fault(self, record: Any, place: Where) -> str | None:
        """What is wrong with `record`: it is no object, has no id, or one that stood elsewhere before."""
        if not isinstance(record, Mapping):
            return f"is a {type(record).__name__}, not an object with named fields"
        id_ = record.get(self._key)
        if not isinstance(id_, int | str) or id_ == "":
            return f"has the {self._what} {id_!r:.60}"
        first = self._places.setdefault(id_, place)
        if first is place:
            return None
        where = f"row {first.row}" if first.file == place.file else str(first)
        return f"has the {self._what} {id_}, and so has {where}"


def listed(document: Any, key: str, path: Path, other: str) -> list[Any]:
    """The list `key` of a JSON object. Raises UserError where it is missing or empty; `other` tells what to do."""
    if not isinstance(document, dict) or not isinstance(document.get(key), list):
        has = f"an object with {', '.join(document)}" if isinstance(document, dict) else f"a {type(document).__name__}"
        raise UserError(f"has no list of '{key}' (it is {has:.120})", where=str(path), fix=other)
    if not document[key]:
        raise UserError(f"its list of '{key}' is empty, so there are no rows", where=str(path))
    found: list[Any] = document[key]
    return found
