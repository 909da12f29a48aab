"""VizWiz: ``[{"image": "VizWiz_val_00000042.jpg", "question", "answers": [{"answer"}], "answer_type", "answerable"}]``.

One question an image, whose file stands in the folder `images` (https://vizwiz.org/tasks-and-datasets/vqa/). There are
no question ids: the image's name is the question's. The test split has no answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sightline.data.asked import Seen, asked, people_said
from sightline.data.encode import RowError
from sightline.data.files import Record, data_files, json_records
from sightline.data.record import image_ref
from sightline.data.row import Row, Where
from sightline.recipe.schema import DataSpec

UNANSWERED = True


def records(spec: DataSpec, name: str) -> Iterator[Record]:
    """(question, whether its split has answers, fault) of every question."""
    seen = Seen("image", "image")
    for path in data_files(spec, name):
        questions = list(json_records(path))
        answered = any(isinstance(one, dict) and "answers" in one for _, one in questions)
        for place, content in questions:
            yield place, (content, answered, seen.fault(content, place))


def row(record: Any, place: Where, spec: DataSpec) -> Row:
    """The image, the question, and the most common answer."""
    question, answered, fault = record
    if fault:
        raise RowError(fault, place, fix="VizWiz asks one question of each image")
    answers = people_said(question.get("answers"), place) if answered else None
    name = question["image"]
    fields = {"question_id": name, "image_id": name}
    fields |= {key: question.get(key) for key in ("answer_type", "answerable")}
    return asked(question.get("question"), (image_ref(name, place, spec),), answers, place, spec, fields=fields)
