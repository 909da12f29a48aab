"""WebDataset: tar shards whose members of one base name are one sample (``0001.jpg``, ``0001.json`` or ``0001.txt``).

The shards are indexed once, by each member's offset; images are then read from their place in the tar at random. As a
stream (see `data/stream.py`) the samples come in order instead, and nothing is indexed.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from sightline.data.encode import RowError, validate
from sightline.data.files import Record, data_files
from sightline.data.readers import image_folder, table
from sightline.data.record import answered, bytes_ref
from sightline.data.row import ImageRef, Row, Where
from sightline.data.shards import Sample
from sightline.errors import UserError
from sightline.recipe.schema import DataSpec

TEXTS = (".txt", ".caption", ".text")
Members = dict[str, tuple[int, int]]  # what follows the base name, e.g. ".jpg" -> (offset, size)


def records(spec: DataSpec, name: str) -> Iterator[Record]:
    """(shard, base name, members) for each sample. `path` may be a glob or ``shard-{0000..0012}.tar``."""
    number = 0
    for path in data_files(spec, name):
        for number, (key, members) in enumerate(_samples(path), start=1):
            yield Where(str(path), number), (path, key, members)
    if number == 0:
        raise UserError("holds no samples", where=f"data.{name}.path")


def row(record: Any, place: Where, spec: DataSpec) -> Row:
    """Images in the order of their endings; the text from the .json, else from the .txt."""
    path, key, members = record
    images = tuple(
        ImageRef(f"{path.absolute()}:{key}{ending}", read=partial(span, path, *members[ending]))
        for ending in _pictures(members)
    )
    return _row(key, members, images, lambda ending: span(path, *members[ending]), place, spec)


def row_of(sample: Sample, spec: DataSpec) -> Row:
    """The same of a sample of a stream; equal bytes are one image. Raises RowError, which names the sample."""
    images = tuple(bytes_ref(sample.members[ending]) for ending in _pictures(sample.members))
    try:
        if sample.broken:
            raise RowError(sample.broken, sample.where)
        made = _row(sample.key, sample.members, images, sample.members.__getitem__, sample.where, spec)
        validate(made)
    except RowError as error:
        raise RowError(f"sample '{sample.key}': {error.what}", sample.where, fix=error.fix) from error
    return made


def _row(
    key: str,
    endings: Collection[str],
    images: tuple[ImageRef, ...],
    content: Callable[[str], bytes],
    place: Where,
    spec: DataSpec,
) -> Row:
    if ".json" in endings:
        return _from_json(content(".json"), images, place, spec)
    text = next((ending for ending in TEXTS if ending in endings), None)
    if text is None:
        raise RowError(f"'{key}' has no .json and no .txt, only {', '.join(sorted(endings))}", place)
    try:
        caption = content(text).decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise RowError(f"its {text} is not UTF-8 text (byte {error.start})", place) from error
    return answered(None, caption, images, place, {"key": key})


def _pictures(endings: Iterable[str]) -> list[str]:
    return [ending for ending in sorted(endings) if Path("x" + ending).suffix.lower() in image_folder.ENDINGS]


def _from_json(data: bytes, images: tuple[ImageRef, ...], place: Where, spec: DataSpec) -> Row:
    try:
        said = json.loads(data)
    except ValueError as error:
        raise RowError(f"its .json is not JSON: {error}", place) from error
    if not isinstance(said, dict):
        raise RowError("its .json is not an object", place)
    caption = {"answer": "caption"} if "caption" in said and "answer" not in said else {}
    columns = spec.model_copy(update={"columns": caption | spec.columns})
    # The tar's own images stand in for whatever paths the JSON names.
    return table.row(said | {columns.columns.get("images", "images"): list(images)}, place, columns)


def _samples(path: Path) -> Iterator[tuple[str, Members]]:
    """Samples in the order of the shard, told apart by the part of the name before its first dot."""
    samples: dict[str, Members] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                folder, _, name = member.name.rpartition("/")
                if member.isfile() and not name.startswith("."):
                    base, dot, ending = name.partition(".")
                    key = f"{folder}/{base}" if folder else base
                    samples.setdefault(key, {})[(dot + ending).lower()] = (member.offset_data, member.size)
    except tarfile.TarError as error:
        raise UserError(f"is not an uncompressed tar file: {error}", where=str(path)) from error
    yield from samples.items()


def span(path: Path, offset: int, size: int) -> bytes:
    """`size` bytes of a file from `offset` on."""
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)
