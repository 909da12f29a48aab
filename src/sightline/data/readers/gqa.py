"""GQA: ``{"<question id>": {"imageId", "question", "answer", "fullAnswer", "types": {...}, "isBalanced"}, ...}``.

Images lie in the folder `images` as ``<imageId>.jpg`` (https://cs.stanford.edu/people/dorarad/gqa/download.html). The
many files of train_all are one data set: ``train_all_questions/*.json``. The splits test and challenge have no answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sightline.data.asked import Seen, asked, image_named, people_said
from sightline.data.encode import RowError
from sightline.data.files import Record, data_files, json_document, mapping
from sightline.data.row import Row, Where
from sightline.errors import UserError
from sightline.recipe.schema import DataSpec

UNANSWERED = True
KINDS = ("structural", "semantic", "detailed")  # GQA's own types of questions (arXiv 1902.09506, section 3.3)


def records(spec: DataSpec, name: str) -> Iterator[Record]:
    """(id, question, whether its split has answers, fault) of every question; an id twice in a file is an error."""
    seen = Seen("question id", "id")
    for path in data_files(spec, name):
        questions = json_document(path, unique=True)
        if not isinstance(questions, dict) or not questions:
            what = "is empty, so there are no rows" if questions in ({}, []) else "is not GQA: an object of questions"
            raise UserError(what, where=str(path), fix="give GQA's own JSON, e.g. val_balanced_questions.json")
        answered = any(isinstance(one, dict) and "answer" in one for one in questions.values())
        for number, (id_, content) in enumerate(questions.items(), start=1):
            place = Where(str(path), number)
            yield place, (id_, content, answered, seen.fault({"id": id_}, place))


def row(record: Any, place: Where, spec: DataSpec) -> Row:
    """The image, the question, and its answer."""
    id_, question, answered, fault = record
    if fault:
        raise RowError(fault, place, fix="give each question an id of its own")
    question = mapping(question, place)
    answers = people_said([question.get("answer")], place) if answered else None
    types = question.get("types") or {}
    image_id = question.get("imageId")
    fields = {"question_id": id_, "image_id": image_id, "question_type": types.get("structural")}
    fields |= {kind: types.get(kind) for kind in KINDS}
    fields |= {"balanced": question.get("isBalanced"), "full_answer": question.get("fullAnswer")}
    images = image_named(spec, "{image_id}.jpg", place, image_id)
    return asked(question.get("question"), images, answers, place, spec, fields=fields)
