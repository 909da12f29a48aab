"""LLaVA's JSON: ``{"image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat?"}, ...]}``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sightline.data.files import Record, data_files, json_records, mapping
from sightline.data.record import column, extras, images_of, spoken
from sightline.data.row import Row, Where
from sightline.recipe.schema import DataSpec


def records(spec: DataSpec, name: str) -> Iterator[Record]:
    """Every object of the JSON (or JSON-lines) files."""
    for path in data_files(spec, name):
        yield from json_records(path)


def row(record: Any, place: Where, spec: DataSpec) -> Row:
    """`image` is one path, a list of them, or absent for text alone."""
    record = mapping(record, place)
    turns = spoken(column(record, "conversations", spec), place, who="from", what="value")
    fields = extras(record, ("conversations", "image", "images"), spec)
    return Row(place, turns, images_of(record, place, spec), fields)
