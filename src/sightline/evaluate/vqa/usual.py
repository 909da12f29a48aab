"""The files of VQAv2 in their usual shape, read by msgspec: a third of the time that `json` takes.

Whatever it finds odd, or all of it where msgspec is not installed, is left to `entries.py`, which takes other shapes
and says exactly what is wrong.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from sightline.evaluate.json_file import Source, content

try:
    import msgspec
except ImportError:  # an extra that only saves time
    msgspec = None  # type: ignore[assignment]

Id = int | str
File = TypeVar("File")

if msgspec is not None:

    class Entry(msgspec.Struct, gc=False):
        """A person's answer."""

        answer_id: int
        answer: str

    class Annotation(msgspec.Struct, gc=False):
        """What people answered to a question."""

        question_id: Id
        answers: list[Entry]
        answer_type: str | None = None
        question_type: str | None = None
        image_id: Id | None = None

    class Question(msgspec.Struct, gc=False):
        """A question, of which the id is enough."""

        question_id: Id

    class Prediction(msgspec.Struct, gc=False):
        """The answer of a model."""

        question_id: Id
        answer: str

    class Annotations(msgspec.Struct):
        """A file of annotations."""

        annotations: list[Annotation]

    class Questions(msgspec.Struct):
        """A file of questions."""

        questions: list[Question]


def annotated(source: Source, where: str) -> list[Annotation]:
    """The annotations of a file; empty where it has another shape."""
    file = _decoded(source, where, Annotations) if msgspec else None
    return file.annotations if file else []


def asked(source: Source, where: str) -> list[Question]:
    """The questions of a file; empty where it has another shape."""
    file = _decoded(source, where, Questions) if msgspec else None
    return file.questions if file else []


def predicted(source: Source, where: str) -> list[Prediction]:
    """The predictions of a file; empty where it has another shape."""
    return (_decoded(source, where, list[Prediction]) if msgspec else None) or []


def _decoded(source: Source, where: str, shape: type[File]) -> File | None:
    if not isinstance(source, (str, Path)):
        return None
    try:
        return msgspec.json.decode(content(source, where), type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
