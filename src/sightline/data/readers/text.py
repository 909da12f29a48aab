"""Plain text: a file, a glob, or a folder of ``.txt`` files. Each file is one document, kept to the last character."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sightline.data.encode import RowError
from sightline.data.files import Record, data_files, data_path
from sightline.data.record import numbered
from sightline.data.row import Row, Turn, Where
from sightline.errors import UserError
from sightline.recipe.schema import DataSpec


def records(spec: DataSpec, name: str) -> Iterator[Record]:
    """The files, sorted by path; of a folder those that end in .txt, in it and below it."""
    folder = Path(data_path(spec, name))
    if not folder.is_dir():
        yield from numbered(data_files(spec, name), str(folder))
        return
    files = sorted(folder.rglob("*.txt"))
    if not files:
        raise UserError("holds no .txt file", where=str(folder), fix=f"name the files in data.{name}.path")
    yield from numbered(files, str(folder))


def row(record: Any, place: Where, spec: DataSpec) -> Row:
    """The file's text, as said by nobody who was asked."""
    path: Path = record
    return Row(place, (Turn("assistant", (read_text(path, place),)),), fields={"file": path.name})


def read_text(path: Path, place: Where) -> str:
    """The text of a file. Raises RowError where it is not UTF-8, or nothing but spaces."""
    try:
        text = path.read_bytes().decode("utf-8")  # as it stands: no newline is changed
    except UnicodeDecodeError as error:
        raise RowError(f"{path.name} is not UTF-8 text (byte {error.start})", place) from error
    if not text.strip():
        raise RowError(f"{path.name} is empty", place)
    return text
