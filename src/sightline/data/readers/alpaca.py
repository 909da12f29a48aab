"""Alpaca: ``{"instruction": ..., "input": ..., "output": ...}``, and optionally system, history and images."""

from __future__ import annotations

from typing import Any

from sightline.data.encode import RowError
from sightline.data.files import mapping
from sightline.data.readers import llava
from sightline.data.record import answered, column, extras, images_of, marked
from sightline.data.row import Row, Turn, Where
from sightline.recipe.schema import DataSpec

records = llava.records
COLUMNS = ("instruction", "input", "output", "system", "history", "image", "images")


def row(record: Any, place: Where, spec: DataSpec) -> Row:
    """Instruction and input are the question; `history` holds earlier [question, answer] pairs."""
    record = mapping(record, place)
    instruction, given = column(record, "instruction", spec), column(record, "input", spec)
    if not isinstance(instruction, str):
        raise RowError("has no 'instruction'", place, fix="map the column, e.g. columns: {instruction: prompt}")
    question = f"{instruction}\n{given}" if given else instruction
    images = images_of(record, place, spec)
    last = answered(question, column(record, "output", spec), images, place, extras(record, COLUMNS, spec))
    system = column(record, "system", spec)
    before = [Turn("system", (system,))] if system else []
    for pair in column(record, "history", spec) or ():
        if not isinstance(pair, list) or len(pair) != 2:
            raise RowError("'history' is not a list of [question, answer] pairs", place)
        before += [Turn("user", marked(pair[0], place)), Turn("assistant", marked(pair[1], place))]
    return Row(place, (*before, *last.turns), images, last.fields)
