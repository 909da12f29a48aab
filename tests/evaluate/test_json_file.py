from __future__ import annotations

import gzip
import json
import random
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from sightline.errors import UserError
from sightline.evaluate.json_file import BATCH, members


def read(path: Path) -> dict[str | None, Any]:
    return whole(members(path, "--file"))


def whole(parts: Iterable[tuple[str | None, Any]]) -> dict[str | None, Any]:
    """The value whose parts these are, a list by itself under None."""
    value: dict[str | None, Any] = {}
    for name, part in parts:
        if isinstance(part, list):
            value[name] = value.get(name, []) + part
        else:
            value[name] = part
    return value


@pytest.mark.parametrize("layout", [{}, {"indent": 2}, {"separators": (",", ":")}])
def test_parts_of_an_object_come_by_their_names(tmp_path: Path, layout: dict[str, Any]) -> None:
    value = {"info": {"year": 2017}, "a": [{"x": [1, "]"]}, {"y": "\u00e9\n"}], "n": None, "empty": [], "b": [1, 2]}
    path = tmp_path / "file"
    path.write_text(json.dumps(value, **layout), encoding="utf-8")
    assert read(path) == value
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert read(path) == value
    assert whole(members(value, "--file")) == value


def test_a_list_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text(' [ {"x" : 1} , {} ] \n', encoding="utf-8")
    assert read(path) == {None: [{"x": 1}, {}]}


@pytest.mark.parametrize("count", [0, 1, BATCH - 1, BATCH, BATCH + 1, 3 * BATCH])
def test_long_lists_come_in_batches(count: int, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text(json.dumps({"a": list(range(count)), "b": [{"x": n} for n in range(count)]}), encoding="utf-8")
    assert read(path) == {"a": list(range(count)), "b": [{"x": n} for n in range(count)]}
    assert max(len(batch) for _, batch in members(path, "")) <= BATCH


def test_any_text_reads_as_json_does_or_is_refused(tmp_path: Path) -> None:
    draw, path = random.Random(1), tmp_path / "file"
    whole = json.dumps({"a": [{"x": 1}, {"y": [True, None]}], "b": {}, "c": []})
    for _ in range(150):
        place = draw.randrange(len(whole))
        text = (
            whole[:place] + draw.choice(["", " ", ",", "]", "}", '"', ":", "1"]) + whole[place + draw.randint(0, 1) :]
        )
        path.write_text(text, encoding="utf-8")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            with pytest.raises(UserError, match="is not JSON"):
                read(path)
        else:
            assert read(path) == (value if isinstance(value, dict) else {None: value})


def _bad(kind: str) -> bytes:
    good = json.dumps([{"x": 1}] * 50).encode()
    return {
        "cut short": gzip.compress(good)[:-9],
        "damaged": gzip.compress(good)[:20] + b"\xff" * 20,
        "no JSON": b"question_id,answer\n1,yes\n",
        "cut JSON": good[:40],
        "one value": b"3",
        "empty": b"",
        "blank": b" \n",
        "not text": b"\x93NUMPY\x01\x00\xff",
        "deep": b"[" * 100_000,
        "bad line": b'{"x": 1}\n{"y": 2\n',
    }[kind]


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        *[("cut short", "cut short or damaged"), ("damaged", "cut short or damaged"), ("no JSON", "line 1, column 1")],
        *[("cut JSON", "is not JSON"), ("one value", "is not JSON"), ("empty", "is empty"), ("blank", "is empty")],
        *[("not text", "not UTF-8"), ("deep", "nested too deep"), ("bad line", "line 2, column")],
    ],
)
def test_what_is_no_such_file_is_told(kind: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(_bad(kind))
    with pytest.raises(UserError, match=told) as error:
        read(path)
    assert str(error.value).startswith(f"--file {path}")


def test_archives_folders_and_nothing_are_told(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "file.zip", "w") as archive:
        archive.writestr("file.json", "[]")
    for name, told in (("file.zip", "zip archive"), ("gone", "No such file"), (".", "Is a directory")):
        with pytest.raises(UserError, match=told):
            read(tmp_path / name)
