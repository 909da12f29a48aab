"""Pieces that readers build a Row from: roles, "<image>" marks, image references, further columns."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from sightline.data.encode import RowError
from sightline.data.row import ImageRef, Picture, Role, Row, Turn, Where
from sightline.errors import nearest
from sightline.recipe.schema import DataSpec

MARK = "<image>"  # an image's place in the text of LLaVA and ShareGPT files
ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
}


def column(record: Mapping[str, Any], name: str, spec: DataSpec) -> Any:
    """The value of our column `name`, which `spec.columns` may have renamed; None where the file has none."""
    return record.get(spec.columns.get(name, name))


def role_of(word: Any, place: Where) -> Role:
    """Our role for a file's. Raises RowError where it is unknown."""
    if word not in ROLES:
        raise RowError(f"a turn has the unknown role {word!r}", place, fix=nearest(str(word), ROLES))
    return ROLES[word]


def marked(text: Any, place: Where) -> tuple[str | Picture, ...]:
    """Text with "<image>" marks as parts. Raises RowError where it is not text."""
    if not isinstance(text, str):
        raise RowError(f"a turn's text is {text!r}, not a string", place)
    if MARK not in text:
        return (text,) if text else ()
    pieces = text.split(MARK)
    parts: list[str | Picture] = [pieces[0]]
    for piece in pieces[1:]:
        parts += [Picture(), piece]
    return tuple(part for part in parts if part != "")


def spoken(conversation: Any, place: Where, *, who: str, what: str) -> tuple[Turn, ...]:
    """Turns from a list of objects whose keys `who` and `what` hold role and marked text."""
    if not isinstance(conversation, list):
        raise RowError(f"its conversation is {conversation!r:.60}, not a list of turns", place)
    turns = []
    for number, said in enumerate(conversation, start=1):
        if not isinstance(said, Mapping) or who not in said or what not in said:
            raise RowError(f"turn {number} has no '{who}' and '{what}'", place)
        turns.append(Turn(role_of(said[who], place), marked(said[what], place)))
    return tuple(turns)


def images_of(record: Mapping[str, Any], place: Where, spec: DataSpec) -> tuple[ImageRef, ...]:
    """The images of the columns `images` (a list) or `image` (one, or a list)."""
    value = column(record, "images", spec)
    value = column(record, "image", spec) if value is None else value
    if value is None:
        return ()
    listed = value if isinstance(value, list | tuple) else [value]
    return tuple(image_ref(one, place, spec) for one in listed)


def image_ref(value: Any, place: Where, spec: DataSpec) -> ImageRef:
    """An image from a path, a data URI, bytes, or an object with `bytes` or `path` (or `url`).

    Relative paths start from `spec.images`, else from the data file's folder. Raises RowError where there is no file.
    """
    if isinstance(value, ImageRef):
        return value
    if isinstance(value, Mapping):
        value = next((value[key] for key in ("bytes", "path", "url") if value.get(key) is not None), None)
    if isinstance(value, bytes):
        return bytes_ref(value)
    if not isinstance(value, str) or not value:
        raise RowError(f"an image is given as {value!r:.60}, not as a path or bytes", place)
    if value.startswith("data:"):
        return bytes_ref(_decoded(value, place))
    if value.startswith(("http://", "https://")):
        raise RowError(f"image {value} is on the web, and images are not downloaded", place, fix="save it to a file")
    root = spec.images or os.path.dirname(place.file)
    path = os.path.join(os.path.expanduser(root), value.removeprefix("file://"))
    found = _file_ref(path)
    if found is None:
        raise RowError(f"image {path} does not exist", place, fix="correct the path, or set 'images' to its folder")
    return found


def bytes_ref(data: bytes) -> ImageRef:
    """An image held in memory; equal bytes are one image."""
    return ImageRef("bytes:" + hashlib.blake2b(data, digest_size=16).hexdigest(), data=data)


def answered(question: Any, answer: Any, images: tuple[ImageRef, ...], place: Where, fields: Mapping[str, str]) -> Row:
    """A row of one question (None: the images alone) and one answer; images without a mark stand before the text."""
    asked = marked("" if question is None else _plain(question, "question", place), place)
    marks = sum(not isinstance(part, str) for part in asked)
    if images and marks == 0:
        asked = (*(Picture() for _ in images), *asked)
    said = _plain(answer, "answer", place)
    return Row(place, (Turn("user", asked), Turn("assistant", (said,))), images, fields)


def extras(record: Mapping[str, Any], used: Iterable[str], spec: DataSpec) -> dict[str, str]:
    """The further columns of one value each, as text."""
    taken = {spec.columns.get(name, name) for name in used}
    return {k: str(v) for k, v in record.items() if k not in taken and isinstance(v, str | int | float | bool)}


def _plain(value: Any, what: str, place: Where) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return str(value)
    raise RowError(f"its {what} is {value!r:.60}, not text", place)


def _decoded(uri: str, place: Where) -> bytes:
    head, _, body = uri.partition(",")
    if not head.endswith(";base64"):
        raise RowError(f"an image is the data URI {head!r:.40}, which is not base64", place)
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error as error:
        raise RowError(f"an image's data URI is not base64: {error}", place) from error


@lru_cache(maxsize=1 << 16)
def _file_ref(path: str) -> ImageRef | None:
    """The image at `path` where there is a file; looked up once for all the rows of an image."""
    return ImageRef(os.path.abspath(path), Path(path)) if os.path.isfile(path) else None


def numbered(records: Iterable[Any], file: str) -> Iterator[tuple[Where, Any]]:
    """`records` with their places, counted from 1."""
    return ((Where(file, number), record) for number, record in enumerate(records, start=1))
