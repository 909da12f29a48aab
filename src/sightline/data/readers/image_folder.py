"""A folder of images with captions: ``metadata.jsonl`` (file_name, text), or ``photo.txt`` beside ``photo.jpg``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sightline.data.encode import RowError
from sightline.data.files import Record, data_folder, json_records
from sightline.data.readers import table
from sightline.data.record import answered, image_ref, numbered
from sightline.data.row import Row, Where
from sightline.errors import UserError
from sightline.recipe.schema import DataSpec

ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
HUGGING_FACE = {"image": "file_name", "answer": "text"}  # the names of its ImageFolder, unless `columns` says otherwise


def records(spec: DataSpec, name: str) -> Iterator[Record]:
    """Every line of `metadata.jsonl`, else every image in the folder and below it, sorted by path."""
    folder = data_folder(spec, name)
    metadata = folder / "metadata.jsonl"
    if metadata.is_file():
        yield from json_records(metadata)
        return
    images = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)
    if not images:
        raise UserError(
            "holds no image", where=str(folder), fix=f"endings that are known: {', '.join(sorted(ENDINGS))}"
        )
    yield from numbered(images, str(folder))


def row(record: Any, place: Where, spec: DataSpec) -> Row:
    """The image, then its caption (or the question and answer that `columns` names)."""
    if not isinstance(record, Path):
        columns = HUGGING_FACE | spec.columns
        return table.row(record, place, spec.model_copy(update={"columns": columns}))
    caption = record.with_suffix(".txt")
    if not caption.is_file():
        raise RowError(f"{record.name} has no caption {caption.name} beside it", place)
    try:
        text = caption.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise RowError(f"caption {caption.name} is not UTF-8 text (byte {error.start})", place) from error
    image = image_ref(str(record.absolute()), place, spec)
    return answered(None, text, (image,), place, {"image": record.name})
