"""Hugging Face `datasets`: a hub id, a local folder that `load_dataset` reads, or one that `save_to_disk` wrote.

Image columns stay on disk, memory-mapped and undecoded, until a picture is needed. `path` may name a configuration
after a colon: ``org/name:config``. The columns are those of the table reader.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from sightline.data.files import Record, data_path
from sightline.data.readers import table
from sightline.data.row import ImageRef, Row, Where
from sightline.errors import UserError, nearest
from sightline.recipe.schema import DataSpec


def records(spec: DataSpec, name: str) -> Iterator[Record]:
    """Every row of the split, its images as references into the memory-mapped table."""
    loaded = _load(spec, name)
    columns = _image_columns(loaded)
    stored = _undecoded(loaded, columns)
    label = f"{spec.path} [{spec.split}]"
    texts = loaded.select_columns([column for column in loaded.column_names if column not in columns])
    counts = {column: _counts(stored, column) for column in columns}
    for index in range(len(loaded)):
        record = dict(texts[index]) if texts.column_names else {}
        for column, made in counts.items():
            keys = [f"{label}#{index}.{column}.{k}" for k in range(made[index] or 0)]
            refs = [ImageRef(key, read=partial(_cell, stored, index, column, k)) for k, key in enumerate(keys)]
            record[column] = refs or None
        yield Where(label, index + 1), record


def row(record: Any, place: Where, spec: DataSpec) -> Row:
    """As the table reader's."""
    return table.row(record, place, spec)


def _load(spec: DataSpec, name: str) -> Any:
    from datasets import DatasetDict, load_dataset, load_from_disk
    from datasets.exceptions import DatasetNotFoundError

    path, _, config = data_path(spec, name).partition(":")
    folder = Path(path)
    where = f"data.{name}"
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        loaded = load_from_disk(str(folder))
        if not isinstance(loaded, DatasetDict):
            return loaded
        if spec.split not in loaded:
            raise UserError(f"{path} has no split '{spec.split}'", where=where, fix=nearest(spec.split, loaded))
        return loaded[spec.split]
    try:
        return load_dataset(path, config or None, split=spec.split)
    except (DatasetNotFoundError, ConnectionError, FileNotFoundError) as error:
        raise UserError(
            f"data set {path} cannot be loaded: {error}", where=where, fix="check the id, the folder, or the connection"
        ) from error
    except ValueError as error:  # unknown split or configuration; the library's message lists the known ones
        raise UserError(f"data set {path}: {error}", where=where) from error


def _image_columns(loaded: Any) -> list[str]:
    from datasets import Image, List

    def holds_images(feature: Any) -> bool:
        return isinstance(feature.feature if isinstance(feature, List) else feature, Image)

    return [column for column, feature in loaded.features.items() if holds_images(feature)]


def _undecoded(loaded: Any, columns: list[str]) -> Any:
    from datasets import Image, List

    for column in columns:
        raw = Image(decode=False)
        loaded = loaded.cast_column(column, List(raw) if isinstance(loaded.features[column], List) else raw)
    return loaded


def _counts(stored: Any, column: str) -> list[int]:
    """Images in each cell of `column`, from the table's offsets alone (no image is read)."""
    import pyarrow.compute as compute
    from pyarrow import types

    counts: list[int] = []
    for part in stored.select_columns([column]).with_format("arrow").iter(batch_size=10_000):
        cells = part.column(0)
        listed = types.is_list(cells.type) or types.is_large_list(cells.type)
        counts += (compute.list_value_length(cells) if listed else cells.is_valid().cast("int64")).to_pylist()
    return [count or 0 for count in counts]


def _cell(stored: Any, index: int, column: str, number: int) -> bytes:
    """The encoded bytes of one image. Raises OSError where the table only names a file that is gone."""
    value = stored[index][column]
    value = value[number] if isinstance(value, list) else value
    data = value.get("bytes")
    return data if data is not None else Path(value["path"]).read_bytes()
