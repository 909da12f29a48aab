"""COCO captions: one row for each caption in ``annotations``; `images` in the recipe names the photos' folder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sightline.data.encode import RowError
from sightline.data.files import Record, data_files, json_document
from sightline.data.record import answered, image_ref
from sightline.data.row import Row, Where
from sightline.errors import UserError
from sightline.recipe.schema import DataSpec


def records(spec: DataSpec, name: str) -> Iterator[Record]:
    """(annotation, its image's file name or None) for each annotation; captions of one image follow each other."""
    for path in data_files(spec, name):
        document = json_document(path)
        if not isinstance(document, dict) or not {"images", "annotations"} <= document.keys():
            raise UserError("is not COCO: an object with 'images' and 'annotations' is needed", where=str(path))
        names = {image["id"]: image["file_name"] for image in document["images"]}
        if document["annotations"] and "caption" not in document["annotations"][0]:
            raise UserError(
                "holds annotations without 'caption'", where=str(path), fix="use the captions_*.json of the same images"
            )
        numbered = list(enumerate(document["annotations"], start=1))
        # Python's sort is stable: images keep the order of their first caption, and captions that of the file.
        first: dict[int, int] = {}
        for number, note in numbered:
            first.setdefault(note["image_id"], number)
        for number, note in sorted(numbered, key=lambda entry: first[entry[1]["image_id"]]):
            yield Where(str(path), number), (note, names.get(note["image_id"]))


def row(record: Any, place: Where, spec: DataSpec) -> Row:
    """The photo, then its caption. The row number is the annotation's place in the file."""
    note, file_name = record
    if file_name is None:
        raise RowError(f"caption {note.get('id')} belongs to image {note['image_id']}, which is not listed", place)
    image = image_ref(file_name, place, spec)
    return answered(None, note.get("caption"), (image,), place, {"image_id": str(note["image_id"])})
