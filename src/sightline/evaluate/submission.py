"""Files of answers to questions whose answers are not public, as the servers that judge them want them.

A submission answers every question of the questions' file exactly once. It is written, read back and compared with that
file, so that what is handed in is what was checked. Formats, by the reader of the data set:

- ``vqa`` (also OK-VQA), ``textvqa``: ``[{"question_id": 1, "answer": "net"}]`` (https://visualqa.org/evaluation.html)
- ``vizwiz``: ``[{"image": "VizWiz_test_00000000.jpg", "answer": "basil"}]``
- ``gqa``: ``[{"questionId": "201971873", "prediction": "yes"}]`` (GQA's eval.py)
- ``nlvr``: lines ``identifier,True`` (of NLVR: of the image) without a header (lil-lab/nlvr, eval/metrics.py)
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightline.atomic import write_text
from sightline.data.files import json_document
from sightline.data.row import Row
from sightline.errors import UserError
from sightline.recipe.schema import DataSpec

NAMED = 3  # ids told of each fault


@dataclass(frozen=True, slots=True)
class Format:
    """How an answer is written: the keys of its question's id and of itself (None: a line of CSV)."""

    id: str | None
    answer: str | None


LINES = Format(None, None)
FORMATS = {
    "vqa": Format("question_id", "answer"),
    "textvqa": Format("question_id", "answer"),
    "vizwiz": Format("image", "answer"),
    "gqa": Format("questionId", "prediction"),
    "nlvr": LINES,
}


def format_of(spec: DataSpec, name: str) -> Format:
    """The format of data set `name`. Raises UserError where it has none, or not all of its questions are asked."""
    if spec.reader not in FORMATS:
        known = ", ".join(FORMATS)
        raise UserError(
            f"reader '{spec.reader}' has no format of submissions", where=f"data.{name}", fix=f"known: {known}"
        )
    for key, all_ in (("limit", None), ("where", {}), ("broken", "error")):
        if getattr(spec, key) != all_:
            raise UserError(
                f"a submission answers every question, and '{key}' may leave some out",
                where=f"data.{name}.{key}",
                fix=f"data.{name}.{key}={'null' if all_ is None else json.dumps(all_)}",
            )
    return FORMATS[spec.reader]


def submit(path: Path, format_: Format, rows: Sequence[Row], answers: Sequence[str]) -> None:
    """Write the answers to all `rows` of a questions' file into `path`, read them back and check them.

    Raises:
        UserError: see `check`; the file cannot be written.
    """
    ids = [row.fields["question_id"] for row in rows]
    given = list(zip(ids, answers, strict=True))
    if format_ is LINES:
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows(given)
        text = buffer.getvalue()
    else:
        entries = [{format_.id: _written(id_, format_), format_.answer: answer} for id_, answer in given]
        text = json.dumps(entries, ensure_ascii=False) + "\n"
    write_text(path, text)
    check(path, format_, ids)


def check(path: Path, format_: Format, ids: Iterable[str]) -> int:
    """Whether the submission in `path` answers the questions `ids`, each once, by a text. Returns how many are empty.

    Raises:
        UserError: answers are missing, double, to unknown questions, or no texts; each with the first ids.
    """
    wanted = set(ids)
    given = list(_read(path, format_))
    counts = Counter(id_ for id_, _ in given)
    faults = {
        "questions are not answered": sorted(wanted - counts.keys()),
        "answers are to questions that are not asked": sorted(counts.keys() - wanted),
        "questions are answered more than once": [id_ for id_, count in counts.items() if count > 1],
        "answers are no text": [id_ for id_, answer in given if not isinstance(answer, str)],
    }
    told = [f"{len(ids_):,} {what}: {_some(ids_)}" for what, ids_ in faults.items() if ids_]
    if told:
        raise UserError("; ".join(told), where=str(path), fix=f"answer each of the {len(wanted):,} questions once")
    return sum(not answer.strip() for _, answer in given)


def _written(id_: str, format_: Format) -> int | str:
    """VQA's question ids are numbers in its files, and must be in submissions."""
    return int(id_) if format_.id == "question_id" and id_.isdecimal() and str(int(id_)) == id_ else id_


def _read(path: Path, format_: Format) -> Iterable[tuple[str, Any]]:
    if format_ is LINES:
        for number, line in enumerate(csv.reader(path.read_text(encoding="utf-8").splitlines()), start=1):
            if len(line) != 2:
                raise UserError(
                    f"line {number} has {len(line)} cells, not an identifier and an answer", where=str(path)
                )
            yield line[0], line[1]
        return
    entries = json_document(path)
    if not isinstance(entries, list):
        raise UserError(
            "is no list of answers", where=str(path), fix=f"write [{{{format_.id}, {format_.answer}}}, ...]"
        )
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict) or entry.keys() != {format_.id, format_.answer}:
            what = f"entry {number} is {entry!r:.60}, not an object of {format_.id} and {format_.answer}"
            raise UserError(what, where=str(path))
        id_ = entry[format_.id]
        if id_ != _written(str(id_), format_):
            raise UserError(f"entry {number} has the {format_.id} {id_!r}, not a number", where=str(path))
        yield str(id_), entry[format_.answer]


def _some(ids: Sequence[str]) -> str:
    return ", ".join(ids[:NAMED]) + (", ..." if len(ids) > NAMED else "")
