"""JSON files of questions, answers and captions, plain or gzipped, read a few records at a time.

Read whole, the annotations of VQAv2 (200 MB) would be a gigabyte of dictionaries. What the file is, its content says:
names such as `.gzip`, or no ending at all, are common.
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
# The name of a list (None: the file is the list) and some of its records; or the name of another value, and the value.
Member = tuple[str | None, Any]
BATCH = 32  # records: few enough to stay in the processor's cache

GZIP, ZIP = b"\x1f\x8b", b"PK\x03\x04"
_BLANK = re.compile(r"[ \t\n\r]*")


def members(source: Source, where: str) -> Iterator[Member]:
    """What stands at the top of `source`: the records of lists, in batches by the list's name, and other values.

    A file of JSON lines is a list. The only empty batch is that of an empty list.

    Args:
        where: what the file is, e.g. ``--annotations``; part of what errors say.

    Raises:
        UserError: the file cannot be read, is cut short, is not text, or not JSON (with line and column).
    """
    if isinstance(source, (str, Path)):
        place = f"{where} {source}"
        yield from _members_of_text(_text(content(source, where), place), place)
    else:
        yield from source.items() if isinstance(source, Mapping) else [(None, source)]


def content(source: str | Path, where: str) -> bytes:
    """The bytes of a file, unzipped where it is gzip. Raises UserError where it cannot be read or is cut short."""
    place = f"{where} {source}"
    try:
        found = Path(source).expanduser().read_bytes()
        return gzip.decompress(found) if found.startswith(GZIP) else found
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"is gzip that is cut short or damaged ({error})", where=place, fix="fetch it again") from error
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror or error}", where=place) from error


def _text(found: bytes, place: str) -> str:
    if found.startswith(ZIP):
        raise UserError("is a zip archive", where=place, fix="unpack it and name the JSON file in it")
    try:
        text = found.decode("utf-8-sig")
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
    place, batch = 0, []
    for line in text.split("\n"):
        if line.strip():
            try:
                batch.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise json.JSONDecodeError(error.msg, text, place + error.pos) from error
        place += len(line) + 1
    yield None, batch


_value = json.JSONDecoder().raw_decode  # the value that begins at a place, and where the text goes on behind it


def _after_blank(text: str, start: int) -> int:
    found = _BLANK.match(text, start)
    return found.end() if found else start


def _list(text: str, start: int, name: str | None) -> Generator[Member, None, int]:
    """The elements of the list that opens at `start`; returns where the text goes on behind it."""
    place = _after_blank(text, start + 1)
    batch: list[Any] = []
    if text[place : place + 1] == "]":
        yield name, batch
        return _after_blank(text, place + 1)
    while True:
        record, place = _value(text, place)
        batch.append(record)
        if text.startswith(", {", place):  # as Python writes it
            place += 2
        else:
            place = _after_blank(text, place)
            sign = text[place : place + 1]
            if sign == "]":
                yield name, batch
                return _after_blank(text, place + 1)
            if sign != ",":
                raise json.JSONDecodeError("Expecting ',' delimiter", text, place)
            place = _after_blank(text, place + 1)
        if len(batch) == BATCH:
            yield name, batch
            batch = []


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
