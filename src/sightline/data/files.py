"""Data files on disk: finding them, and JSON (plain or gzipped) that says where it is wrong."""

from __future__ import annotations

import glob
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from sightline.data.encode import RowError
from sightline.data.row import Where
from sightline.errors import UserError, nearest
from sightline.recipe.schema import DataSpec

Record = tuple[Where, Any]  # a row's place and what the file says there
GZIP = b"\x1f\x8b"  # the first bytes of a gzipped file, whatever its name (RFC 1952, section 2.3.1)


def data_path(spec: DataSpec, name: str) -> str:
    """`spec.path`, which most readers need. Raises UserError where the recipe gives none."""
    if not spec.path:
        raise UserError(f"reader '{spec.reader}' needs a path", where=f"data.{name}", fix=f"set data.{name}.path")
    return str(Path(spec.path).expanduser())


def data_files(spec: DataSpec, name: str, key: str = "path") -> list[Path]:
    """The files that the recipe's `key` means, sorted: one file, a glob, or braces as in ``shard-{000..003}.tar``."""
    given = data_path(spec, name) if key == "path" else str(Path(getattr(spec, key)).expanduser())
    found: list[Path] = []
    for pattern in unbraced(given):
        matches = [pattern] if Path(pattern).exists() else sorted(glob.glob(pattern, recursive=True))
        if not matches:
            raise UserError(f"no file {pattern}{_similar(Path(pattern))}", where=f"data.{name}.{key}")
        found += map(Path, matches)
    if folders := [path for path in found if path.is_dir()]:
        raise UserError(
            f"{folders[0]} is a folder, and reader '{spec.reader}' reads files",
            where=f"data.{name}.{key}",
            fix="name the file (or a glob such as folder/*.json), or another reader",
        )
    return found


def data_folder(spec: DataSpec, name: str) -> Path:
    """The folder that `spec.path` means."""
    folder = Path(data_path(spec, name))
    if not folder.is_dir():
        reason = "is a file, not a folder" if folder.exists() else f"does not exist{_similar(folder)}"
        raise UserError(f"folder {folder} {reason}", where=f"data.{name}.path")
    return folder


def json_records(path: Path) -> Iterator[Record]:
    """The objects of a JSON list, or of a JSON-lines file (told by its ending, .jsonl or .ndjson).

    Raises:
        UserError: the file is empty, not JSON (with line and column), or not a list of objects.
    """
    if Path(path.name.removesuffix(".gz")).suffix in (".jsonl", ".ndjson"):
        yield from json_lines(path)
        return
    loaded = json_document(path)
    if not isinstance(loaded, list):
        raise UserError(
            f"holds one {_kind(loaded)}, not a list of rows", where=str(path), fix="write the rows as one JSON list"
        )
    if not loaded:
        raise UserError("holds an empty list, so there are no rows", where=str(path))
    for number, record in enumerate(loaded, start=1):
        yield Where(str(path), number), record


def json_document(path: Path, *, unique: bool = False) -> Any:
    """The one JSON value of a file. Raises UserError where the file is empty or not JSON.

    Args:
        unique: refuse an object that has a key twice (JSON readers keep the last one in silence).
    """
    text = _text(path)
    try:
        return json.loads(text, object_pairs_hook=_unique) if unique else json.loads(text)
    except _Twice as error:
        raise UserError(f"holds the key '{error}' twice", where=str(path), fix="remove or rename one of them") from None
    except json.JSONDecodeError as error:
        hint = " (it looks like JSON lines: name it .jsonl)" if error.msg == "Extra data" and error.lineno > 1 else ""
        raise UserError(
            f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}{hint}", where=str(path)
        ) from error


def json_lines(path: Path) -> Iterator[Record]:
    """The values of a file of JSON lines, each with its line. Raises UserError where the file or a line is no JSON."""
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield Where(str(path), number), json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(
                f"is not JSON: {error.msg} at line {number}, column {error.colno}", where=str(path)
            ) from error


class _Twice(Exception):
    """A key that an object has twice."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise _Twice(next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i])))
    return made


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if content.startswith(GZIP) else content).decode("utf-8-sig")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"is gzipped, and broken: {error}", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise UserError(f"is not UTF-8 text (byte {error.start})", where=str(path)) from error
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=str(path)) from error
    if not text.strip():
        raise UserError("is empty", where=str(path))
    return text


def mapping(record: Any, place: Where) -> dict[str, Any]:
    """`record` where it is a JSON object. Raises RowError otherwise."""
    if not isinstance(record, dict):
        raise RowError(f"is a {_kind(record)}, not an object with named fields", place)
    return record


def _kind(value: Any) -> str:
    names = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null" if value is None else type(value).__name__)


def _similar(path: Path) -> str:
    """A hint at the nearest file name in the same folder."""
    if not path.parent.is_dir():
        return f" (nor a folder {path.parent})"
    names = [entry.name for entry in path.parent.iterdir()]
    hint = nearest(path.name, names) if names else ""
    return f"; {hint}" if hint.startswith("did you mean") else ""


def unbraced(pattern: str) -> list[str]:
    """``a-{00..02}.tar`` and ``{a,b}.tar`` as the names they mean, as a shell would write them."""
    pieces = re.split(r"\{([^{}]+)\}", pattern)
    choices = [[piece] if i % 2 == 0 else _alternatives(piece) for i, piece in enumerate(pieces)]
    return ["".join(chosen) for chosen in product(*choices)]


def _alternatives(inside: str) -> list[str]:
    if span := re.fullmatch(r"(\d+)\.\.(\d+)", inside):
        first, last = span.groups()
        return [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    return inside.split(",")
