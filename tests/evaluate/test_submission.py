"""Submissions: written in each server's format, every question once, and refused where something is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sightline.data.row import Row, Turn, Where
from sightline.errors import UserError
from sightline.evaluate.submission import FORMATS, check, format_of, submit
from sightline.recipe.schema import DataSpec


def _rows(*ids: str) -> list[Row]:
    turns = (Turn("user", ("what?",)),)
    return [Row(Where("test.json", n), turns, fields={"question_id": id_}) for n, id_ in enumerate(ids, start=1)]


WRITTEN = {
    "vqa": [{"question_id": 262144000, "answer": "net"}, {"question_id": 2, "answer": 'so-called "net", 2'}],
    "textvqa": [{"question_id": 262144000, "answer": "net"}, {"question_id": 2, "answer": 'so-called "net", 2'}],
    "vizwiz": [{"image": "262144000", "answer": "net"}, {"image": "2", "answer": 'so-called "net", 2'}],
    "gqa": [{"questionId": "262144000", "prediction": "net"}, {"questionId": "2", "prediction": 'so-called "net", 2'}],
}


@pytest.mark.parametrize("reader", FORMATS)
def test_every_format(tmp_path: Path, reader: str) -> None:
    path, rows = tmp_path / "out", _rows("262144000", "2")
    form = format_of(DataSpec(reader=reader, path="x"), "test")
    submit(path, form, rows, ["net", 'so-called "net", 2'])
    if reader == "nlvr":
        assert path.read_text() == '262144000,net\n2,"so-called ""net"", 2"\n'
    else:
        assert json.loads(path.read_text()) == WRITTEN[reader]
    assert check(path, form, ["2", "262144000"]) == 0


def test_empty_answers_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    submit(path, FORMATS["vqa"], _rows("1", "2", "3"), ["", "net", " "])
    assert check(path, FORMATS["vqa"], ["1", "2", "3"]) == 2


def _entry(id_: Any, answer: Any = "net") -> dict[str, Any]:
    return {"question_id": id_, "answer": answer}


BAD: dict[str, tuple[Any, str]] = {
    "missing": ([_entry(1)], "2 questions are not answered: 2, 3"),
    "unknown": ([_entry(n) for n in (1, 2, 3, 4)], "1 answers are to questions that are not asked: 4"),
    "double": ([_entry(n) for n in (1, 2, 3, 3)], "1 questions are answered more than once: 3"),
    "no text": ([_entry(1, 7), _entry(2, None), _entry(3)], "2 answers are no text: 1, 2"),
    "no number": ([_entry("1"), _entry(2), _entry(3)], "entry 1 has the question_id '1', not a number"),
    "other keys": ([{"questionId": 1, "answer": "net"}], "entry 1 is .*, not an object of question_id and answer"),
    "no list": ({"1": "net"}, "is no list of answers"),
    "several at once": (
        [_entry(1), _entry(1), _entry(9)],
        "2 questions are not answered: 2, 3; 1 answers .*: 9; 1 .*: 1",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_told(tmp_path: Path, case: str) -> None:
    content, message = BAD[case]
    path = tmp_path / "submission.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        check(path, FORMATS["vqa"], ["1", "2", "3"])


def test_questions_must_not_be_left_out() -> None:
    for spec, key in (({"limit": 5}, "limit"), ({"where": {"a": ["b"]}}, "where"), ({"broken": "skip"}, "broken")):
        with pytest.raises(UserError, match=f"'{key}' may leave some out"):
            format_of(DataSpec(reader="vqa", path="x", **spec), "test")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="reader 'llava' has no format of submissions"):
        format_of(DataSpec(reader="llava", path="x"), "test")
