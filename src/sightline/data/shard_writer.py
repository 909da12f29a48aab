"""write_shards: any data set as tar shards, to be streamed or read by whatever reads webdataset."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sightline.atomic import write_json
from sightline.data.encode import RowError
from sightline.data.images import BROKEN
from sightline.data.record import MARK
from sightline.data.row import ImageRef, Row, Turn
from sightline.data.shards import SIZES
from sightline.errors import UserError


def write_shards(rows: Iterable[Row], pattern: Path, per_shard: int = 10_000) -> dict[str, int]:
    """Write `rows` in their order into shards of `per_shard` samples, and sizes.json beside them.

    A sample is ``00000000.json`` with `messages` and the row's fields, and its images as they are encoded:
    ``00000000.0.jpg``, ... Samples of one shard stay near each other when it is streamed, so shuffle the rows before.

    Args:
        pattern: of the shards' names, e.g. ``shards/pairs-%06d.tar``. The folder is made; old shards are not removed.

    Returns:
        The samples of each shard, by its file's name.

    Raises:
        UserError: the pattern has no number. RowError: an image that cannot be read, or a text that holds "<image>".
    """
    if "%" not in pattern.name:
        raise UserError(f"'{pattern.name}' names one file for all shards", fix="put a number in, e.g. pairs-%06d.tar")
    from webdataset import ShardWriter

    pattern.parent.mkdir(parents=True, exist_ok=True)
    sizes: dict[str, int] = {}
    with ShardWriter(str(pattern), maxcount=per_shard, maxsize=float("inf"), verbose=0) as writer:
        for number, row in enumerate(rows):
            writer.write({"__key__": f"{number:08}", **_members(row)})
            name = Path(writer.fname).name
            sizes[name] = sizes.get(name, 0) + 1
    write_json(pattern.with_name(SIZES), sizes)
    return sizes


def _members(row: Row) -> dict[str, Any]:
    messages = [{"role": turn.role, "content": _content(turn, row)} for turn in row.turns]
    members: dict[str, Any] = {"json": json.dumps({"messages": messages, **row.fields}, ensure_ascii=False).encode()}
    # Named by their order with leading zeros: a reader takes them in the order of their names.
    return members | {f"{k:03}.{_ending(ref, row)}": _encoded(ref, row) for k, ref in enumerate(row.images)}


def _content(turn: Turn, row: Row) -> str:
    if any(isinstance(part, str) and MARK in part for part in turn.parts):
        raise RowError(f'a text holds "{MARK}", which would be read as a picture\'s place', row.where)
    return "".join(part if isinstance(part, str) else MARK for part in turn.parts)


def _encoded(ref: ImageRef, row: Row) -> bytes:
    try:
        if ref.path is not None:
            return ref.path.read_bytes()
        return ref.data if ref.data is not None else ref.read() if ref.read is not None else b""
    except OSError as error:
        raise RowError(f"image {ref.key} cannot be read: {error}", row.where) from error


def _ending(ref: ImageRef, row: Row) -> str:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(_encoded(ref, row))) as image:
            kind = (image.format or "png").lower()
    except (*BROKEN, Image.DecompressionBombError) as error:
        raise RowError(f"image {ref.key} is broken: {error}", row.where) from error
    return {"jpeg": "jpg", "mpo": "jpg"}.get(kind, kind)
