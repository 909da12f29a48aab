"""OpenAI and Hugging Face messages: ``{"messages": [{"role": "user", "content": ...}, ...], "images": [...]}``.

`content` is text with "<image>" marks, or a list of parts of type text, image or image_url. A part may carry its image
(`image`, `path`, `url`, `image_url`); one that does not takes the next of the row's `images`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sightline.data.encode import RowError
from sightline.data.files import mapping
from sightline.data.readers import llava
from sightline.data.record import column, extras, image_ref, images_of, marked, role_of
from sightline.data.row import ImageRef, Picture, Row, Turn, Where
from sightline.recipe.schema import DataSpec

records = llava.records


def row(record: Any, place: Where, spec: DataSpec) -> Row:
    """A conversation of any number of turns and images."""
    record = mapping(record, place)
    conversation = column(record, "messages", spec)
    if not isinstance(conversation, list):
        raise RowError("has no list of 'messages'", place, fix="map the column, e.g. columns: {messages: chat}")
    beside = iter(images_of(record, place, spec))
    images: list[ImageRef] = []
    turns = []
    for number, said in enumerate(conversation, start=1):
        if not isinstance(said, Mapping) or "role" not in said or "content" not in said:
            raise RowError(f"message {number} has no 'role' and 'content'", place)
        parts = tuple(_parts(said["content"], place))
        images += _pictured(said["content"], beside, place, spec)
        turns.append(Turn(role_of(said["role"], place), parts))
    images += beside  # more images than places: the count is checked, and told, for every reader in one place
    return Row(place, tuple(turns), tuple(images), extras(record, ("messages", "image", "images"), spec))


def _parts(content: Any, place: Where) -> Iterator[str | Picture]:
    if content is None or isinstance(content, str):
        yield from marked(content or "", place)
        return
    for part in _listed(content, place):
        kind = part.get("type")
        if kind == "text":
            yield from marked(part.get("text"), place)
        elif kind in ("image", "image_url", "input_image"):
            yield Picture()
        else:
            raise RowError(f"a content part has the unknown type {kind!r}", place, fix="known: text, image, image_url")


def _pictured(content: Any, beside: Iterator[ImageRef], place: Where, spec: DataSpec) -> Iterator[ImageRef]:
    """The images of the content's pictures, in order."""
    if not isinstance(content, list):
        content = [{"type": "text", "text": content or ""}]
    for part in content:
        if part["type"] == "text":
            waiting = sum(not isinstance(piece, str) for piece in marked(part["text"], place))
            yield from (ref for _, ref in zip(range(waiting), beside, strict=False))
        elif (inside := _inside(part)) is not None:
            yield image_ref(inside, place, spec)
        elif (following := next(beside, None)) is not None:
            yield following


def _inside(part: Mapping[str, Any]) -> Any:
    value = next((part[key] for key in ("image", "image_url", "path", "url", "bytes") if part.get(key)), None)
    return value["url"] if isinstance(value, Mapping) and "url" in value else value


def _listed(content: Any, place: Where) -> list[Mapping[str, Any]]:
    if not isinstance(content, list) or any(not isinstance(part, Mapping) for part in content):
        raise RowError(f"a message's content is {content!r:.60}, neither text nor a list of parts", place)
    return content
