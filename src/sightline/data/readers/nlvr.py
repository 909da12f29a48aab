"""NLVR and NLVR2: is the sentence true of the image, or of the two images? JSON lines in a file named ``.json``.

NLVR (Suhr et al. 2017): a folder or tar of ``dev.json`` and ``images/<directory>/dev-<identifier>-<k>.png``, one row
for each of the six orders k of a sentence's boxes. NLVR2 (Suhr et al. 2019, arXiv 1811.00491): the JSON file alone as
`path`, and `images`, the folder of ``dev-<set>-<pair>-img0.png`` and ``-img1.png`` (of train: in numbered folders).
Both: https://github.com/lil-lab/nlvr. Lines without a label make a split without answers.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import Any

from sightline.data.asked import Seen, asked
from sightline.data.encode import RowError
from sightline.data.files import Record, data_files, data_path, json_lines
from sightline.data.readers.webdataset import span
from sightline.data.record import image_ref
from sightline.data.row import ImageRef, Row, Where
from sightline.errors import UserError
from sightline.recipe.schema import DataSpec

UNANSWERED = True
ORDERS = 6  # of the three boxes of one NLVR sentence
LABELS = ("true", "false")


def records(spec: DataSpec, name: str) -> Iterator[Record]:
    """(line, order of the boxes or None, whether its split has labels, fault) of every image or pair of images."""
    seen = Seen("identifier", "identifier")
    for place, line in _lines(spec, name):
        fault = seen.fault(line, place)
        for order in [None] if fault or "left_url" in line else range(ORDERS):
            yield place, (line, order, fault)


def row(record: Any, place: Where, spec: DataSpec) -> Row:
    """The image or images, the sentence, and "true" or "false"."""
    line, order, fault = record
    if fault:
        raise RowError(fault, place, fix="give each line an identifier of its own")
    label = None if line.get("label") is None else str(line["label"]).lower()
    if label is not None and label not in LABELS:
        raise RowError(f"its label is {line['label']!r:.60}, neither true nor false", place)
    split, identifier = PurePosixPath(place.file.split("!")[-1]).stem, line["identifier"]
    if order is None:
        stem = str(identifier).rpartition("-")[0]
        names, id_ = [f"{stem}-img0.png", f"{stem}-img1.png"], identifier
    else:
        names = [f"{split}-{identifier}-{order}.png"]
        id_ = names[0]
    images = tuple(_image(each, line.get("directory"), place, spec) for each in names)
    fields = {"question_id": id_, "image_id": id_ if order is not None else names[0].removesuffix("-img0.png")}
    fields |= {"identifier": identifier, "order": order, "directory": line.get("directory")}
    return asked(line.get("sentence"), images, (label,) if label else None, place, spec, fields=fields)


def _lines(spec: DataSpec, name: str) -> Iterator[Record]:
    """Every line, wherever `path` leads. In a tar, the place's file is ``dev.tar!dev/dev.json``."""
    path = Path(data_path(spec, name))
    if path.is_dir():
        split = [file for file in sorted(path.glob("*.json")) if (path / "images").is_dir()]
        if len(split) != 1:
            what = f"is no split of NLVR: it has {len(split)} .json files beside a folder 'images'"
            raise UserError(what, where=str(path), fix="give the folder of one split, e.g. nlvr/dev")
        yield from json_lines(split[0])
    elif path.suffix == ".tar" and path.is_file():
        yield from _tar_lines(path)
    else:
        for file in data_files(spec, name):
            yield from json_lines(file)


def _tar_lines(path: Path) -> Iterator[Record]:
    for member, (offset, size) in _members(path).items():
        if member.count("/") <= 1 and member.endswith(".json"):
            for number, line in enumerate(span(path, offset, size).decode("utf-8").splitlines(), start=1):
                place = Where(f"{path}!{member}", number)
                try:
                    yield place, json.loads(line)
                except json.JSONDecodeError as error:
                    raise UserError(f"is not JSON: {error.msg}", where=str(place)) from error
            return
    raise UserError("holds no .json file with sentences", where=str(path), fix="give one split's tar, e.g. dev.tar")


@lru_cache(maxsize=8)
def _members(path: Path) -> dict[str, tuple[int, int]]:
    """Where the files of a tar begin, and their sizes. Raises UserError where it is no tar."""
    try:
        with tarfile.open(path, "r:") as tar:
            return {member.name: (member.offset_data, member.size) for member in tar if member.isfile()}
    except tarfile.TarError as error:
        raise UserError(f"is not an uncompressed tar file: {error}", where=str(path)) from error


def _image(name: str, folder: Any, place: Where, spec: DataSpec) -> ImageRef:
    """The image, in the split's own folder `images` or in the recipe's, there perhaps in a numbered folder."""
    if "!" in place.file:
        path, _, member = place.file.rpartition("!")
        inside = str(PurePosixPath(member).parent / "images" / str(folder) / name)
        if inside not in _members(Path(path)):
            raise RowError(f"image {inside} is not in the tar", place)
        return ImageRef(
            f"{Path(path).absolute()}!{inside}", read=partial(span, Path(path), *_members(Path(path))[inside])
        )
    root = Path(spec.images).expanduser() if spec.images else Path(place.file).parent / "images"
    numbered = root / str(folder) / name
    return image_ref(
        str((numbered if folder is not None and numbered.is_file() else root / name).absolute()), place, spec
    )
