"""JSON files of questions, answers and captions, plain or gzipped, read record by record.

Only one record of a list is held at a time: the annotations of VQAv2 are 200 MB that would become a gigabyte of
dictionaries. What the file is, its content says: names such as `.gzip`, or no ending at all, are common.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

from sightline.errors import UserError

Source = str | Path | Mapping[str, Any] | list[Any]  # a file, or what it would hold
Member = tuple[str | None, Any]  # the name of the list (None: the file is the list) or of the value, and a record of it

GZIP, ZIP = b"\x1f\x8b", b"PK\x03\x04"
_BLANK = re.compile(r"[ \t\n\r]*")


def members(source: Source, where: str) -> Iterator[Member]:
    """The records of every list at the top of `source`, each with the list's name; other values by their own names.

    A file of JSON lines is a list. An empty list is told by its name and the record `[]`.

    Args:
        where: what the file is, e.g. ``--annotations``; part of what errors say.

    Raises:
        UserError: the file cannot be read, is cut short, is not text, or not JSON (with line and column).
    """
    if isinstance(source, (str, Path)):
        path = Path(source).expanduser()
        yield from _members_of_text(_text(path, where), f"{where} {path}")
    elif isinstance(source, Mapping):
        for name, value in source.items():
            yield from ((name, record) for record in value or [[]]) if isinstance(value, list) else [(name, value)]
    else:
        yield from ((None, record) for record in source or [[]])


def _text(path: Path, where: str) -> str:
    place = f"{where} {path}"
    try:
        content = path.read_bytes()
        if content.startswith(GZIP):
            content = gzip.decompress(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"is gzip that is cut short or damaged ({error})", where=place, fix="fetch it again") from error
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror or error}", where=place) from error
    if content.startswith(ZIP):
        raise UserError("is a zip archive", where=place, fix="unpack it and name the JSON file in it")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"is not JSON: byte {error.start} is not UTF-8 text", where=place) from error
    if not text.strip():
        raise UserError("is empty", where=place)
    return text


def _members_of_text(text: str, place: str) -> Iterator[Member]:
    try:
        start = _after_blank(text, 0)
        if _is_lines(text, start):
            yield from _lines(text)
            return
        if text[start] == "[":
            end = yield from _list(text, start, None)
        elif text[start] == "{":
            end = yield from _object(text, start)
        else:
            raise json.JSONDecodeError("Expecting a list or an object", text, start)
        if end != len(text):
            raise json.JSONDecodeError("Extra data", text, end)
    except json.JSONDecodeError as error:
        line, column = error.lineno, error.colno
        raise UserError(f"is not JSON: {error.msg} at line {line}, column {column}", where=place) from error
    except RecursionError as error:
        raise UserError("is not such a file: its values are nested too deep", where=place) from error


def _is_lines(text: str, start: int) -> bool:
    """Whether the first line is an object by itself, and more follow."""
    end = text.find("\n", start)
    if text[start] != "{" or end < 0 or not text[end:].lstrip().startswith("{"):
        return False
    try:
        return isinstance(json.loads(text[start:end]), dict)
    except json.JSONDecodeError:
        return False


def _lines(text: str) -> Iterator[Member]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield None, json.loads(line)
        except json.JSONDecodeError as error:
            before = sum(len(each) + 1 for each in text.split("\n")[: number - 1])
            raise json.JSONDecodeError(error.msg, text, before + error.pos) from error


_value = json.JSONDecoder().raw_decode  # the value that begins at a place, and where the text goes on behind it


def _after_blank(text: str, start: int) -> int:
    found = _BLANK.match(text, start)
    return found.end() if found else start


def _list(text: str, start: int, name: str | None) -> Generator[Member, None, int]:
    """The elements of the list that opens at `start`; returns where the text goes on behind it."""
    place = _after_blank(text, start + 1)
    if text[place : place + 1] == "]":
        yield name, []
        return _after_blank(text, place + 1)
    while True:
        record, place = _value(text, place)
        yield name, record
        sign = text[place : place + 1]
        if sign != "," and sign != "]":
            place = _after_blank(text, place)
            sign = text[place : place + 1]
        if sign == "]":
            return _after_blank(text, place + 1)
        if sign != ",":
            raise json.JSONDecodeError("Expecting ',' delimiter", text, place)
        place = _after_blank(text, place + 1)


def _object(text: str, start: int) -> Generator[Member, None, int]:
    """The members of the object that opens at `start`; returns where the text goes on behind it."""
    place = _after_blank(text, start + 1)
    if text[place : place + 1] == "}":
        return _after_blank(text, place + 1)
    while True:
        name, place = _value(text, place)
        if not isinstance(name, str):
            raise json.JSONDecodeError("Expecting property name enclosed in double quotes", text, place)
        place = _after_blank(text, place)
        if text[place : place + 1] != ":":
            raise json.JSONDecodeError("Expecting ':' delimiter", text, place)
        place = _after_blank(text, place + 1)
        if text[place : place + 1] == "[":
            place = yield from _list(text, place, name)
        else:
            value, place = _value(text, place)
            yield name, value
            place = _after_blank(text, place)
        sign = text[place : place + 1]
        if sign == "}":
            return _after_blank(text, place + 1)
        if sign != ",":
            raise json.JSONDecodeError("Expecting ',' delimiter", text, place)
        place = _after_blank(text, place + 1)
