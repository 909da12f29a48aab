"""VQAv2 as its authors publish it: a file of questions, and one of `annotations` with ten people's answers to each.

Questions: ``{"data_subtype": "val2014", "questions": [{"question_id", "image_id", "question"}]}``; annotations:
``{"annotations": [{"question_id", "image_id", "answers": [{"answer"}], "multiple_choice_answer", "answer_type",
"question_type"}]}`` (https://visualqa.org/download.html). OK-VQA has the same format. Without `annotations` it is a
test split. Images lie in the folder `images` as ``COCO_val2014_000000000042.jpg``, or by the pattern `file_name`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sightline.data.asked import NO_IMAGES, Seen, asked, image_named, listed, people_said
from sightline.data.encode import RowError
from sightline.data.files import Record, data_files, json_document
from sightline.data.row import Row, Where
from sightline.errors import UserError
from sightline.recipe.schema import DataSpec

UNANSWERED = True
COCO = "COCO_{split}_{image_id:012d}.jpg"
SPLIT = re.compile(r"(?:train|val|test)\d{4}")  # of COCO's images; those of "test-dev2015" are test2015's


@dataclass(frozen=True, slots=True)
class Note:
    """An annotation and where it stands."""

    content: dict[str, Any]
    place: Where


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its annotation (None where no data set of answers was named), its images' split, and its fault."""

    content: dict[str, Any]
    note: Note | None
    split: str | None
    fault: str | None


def records(spec: DataSpec, name: str) -> Iterator[Record]:
    """Every question with its annotation. Raises UserError where a file is not what it should be."""
    notes = _notes(spec, name)
    seen = Seen("question id", "question_id")
    for path in data_files(spec, name):
        document = json_document(path)
        fix = f"is it the annotations' file? data.{name}.path is that of the questions"
        questions = listed(document, "questions", path, fix)
        split = _split(document, spec)
        if split is None and spec.file_name is None:
            raise UserError(
                "does not say which COCO images it asks about (it has no 'data_subtype')",
                where=str(path),
                fix=f"set data.{name}.split=train2014 (or val2014, test2015), or data.{name}.file_name",
            )
        for number, content in enumerate(questions, start=1):
            place = Where(str(path), number)
            fault = seen.fault(content, place)
            note = notes.get(content["question_id"]) if notes is not None and fault is None else None
            if notes is not None and note is None:
                fault = fault or f"question {content['question_id']} has no annotation in {spec.annotations}"
            yield place, Question(content, note, split, fault)


def row(record: Any, place: Where, spec: DataSpec) -> Row:
    """The image, the question, and the most common answer (or the `target` that the recipe wants)."""
    question, note = record.content, record.note.content if record.note else {}
    if record.fault:
        raise RowError(record.fault, place, fix="give each question one id, and one annotation")
    image_id = question.get("image_id")
    if note and note.get("image_id", image_id) != image_id:
        told = f"question {question['question_id']} is about image {image_id}"
        raise RowError(f"{told}, and {record.note.place} answers about image {note['image_id']}", place)
    answers = people_said(note.get("answers"), record.note.place) if record.note else None
    common = note.get("multiple_choice_answer")
    fields = {key: question.get(key) for key in ("question_id", "image_id")}
    fields |= {key: note.get(key) for key in ("answer_type", "question_type", "multiple_choice_answer")}
    images = image_named(spec, COCO, place, image_id, split=record.split or NO_IMAGES)
    return asked(
        question.get("question"), images, answers, place, spec, fields=fields, common=common if common else None
    )


def _notes(spec: DataSpec, name: str) -> dict[Any, Note] | None:
    """Annotations by their questions' ids. Raises UserError, RowError where an id comes twice."""
    if spec.annotations is None:
        return None
    notes: dict[Any, Note] = {}
    seen = Seen("question id", "question_id")
    for path in data_files(spec, name, "annotations"):
        fix = f"is it the questions' file? data.{name}.annotations is that of the answers"
        for number, content in enumerate(listed(json_document(path), "annotations", path, fix), start=1):
            place = Where(str(path), number)
            if fault := seen.fault(content, place):
                raise RowError(fault, place, fix="give each question one annotation")
            notes[content["question_id"]] = Note(content, place)
    return notes


def _split(document: dict[str, Any], spec: DataSpec) -> str | None:
    for told in (str(document.get("data_subtype", "")).replace("-dev", ""), spec.split):
        if SPLIT.fullmatch(told):
            return told
    return None
