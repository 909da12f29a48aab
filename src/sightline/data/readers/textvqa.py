"""TextVQA: ``{"data": [{"question_id", "image_id", "question", "answers": [ten strings]}]}`` (https://textvqa.org).

Images lie in the folder `images` as ``<image_id>.jpg``. The test split has no answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sightline.data.asked import Seen, asked, image_named, listed, people_said
from sightline.data.encode import RowError
from sightline.data.files import Record, data_files, json_document
from sightline.data.row import Row, Where
from sightline.recipe.schema import DataSpec

UNANSWERED = True


def records(spec: DataSpec, name: str) -> Iterator[Record]:
    """(question, whether its split has answers, fault) of every question."""
    seen = Seen("question id", "question_id")
    for path in data_files(spec, name):
        questions = listed(json_document(path), "data", path, "give TextVQA's own JSON, e.g. TextVQA_0.5.1_val.json")
        answered = any(isinstance(one, dict) and "answers" in one for one in questions)
        for number, content in enumerate(questions, start=1):
            place = Where(str(path), number)
            yield place, (content, answered, seen.fault(content, place))


def row(record: Any, place: Where, spec: DataSpec) -> Row:
    """The image, the question, and the most common answer."""
    question, answered, fault = record
    if fault:
        raise RowError(fault, place, fix="give each question an id of its own")
    answers = people_said(question.get("answers"), place) if answered else None
    image_id = question.get("image_id")
    # All its questions are about text in the image: the field tells what may be done to an image (data/augment.py).
    fields = {"question_id": question["question_id"], "image_id": image_id, "task": "reading"}
    images = image_named(spec, "{image_id}.jpg", place, image_id)
    return asked(question.get("question"), images, answers, place, spec, fields=fields)
