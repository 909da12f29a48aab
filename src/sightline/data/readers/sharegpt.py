"""ShareGPT: ``{"conversations": [{"from": "human", "value": ...}, ...], "system": ..., "images": [...]}``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sightline.data.files import mapping
from sightline.data.readers import llava
from sightline.data.record import column
from sightline.data.row import Row, Turn, Where
from sightline.recipe.schema import DataSpec

records = llava.records


def row(record: Any, place: Where, spec: DataSpec) -> Row:
    """As LLaVA's, with the system turn in a column of its own."""
    made = llava.row(record, place, spec)
    system = column(mapping(record, place), "system", spec)
    fields = {key: value for key, value in made.fields.items() if key != spec.columns.get("system", "system")}
    turns = (Turn("system", (system,)), *made.turns) if isinstance(system, str) and system else made.turns
    return replace(made, turns=turns, fields=fields)
