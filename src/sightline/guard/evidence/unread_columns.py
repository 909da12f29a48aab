"""Columns that the model asks for by name, and that its trainer takes out of the rows before it does."""

from __future__ import annotations

from sightline.guard.evidence.beginnings import Misplaced
from sightline.guard.evidence.data import DataSeen


def unread(data: DataSeen | None) -> Misplaced | None:
    """The model never sees them: it goes on as for rows that have none."""
    if data is None or not data.dropped:
        return None
    names = " and ".join(f"'{name}'" for name in data.dropped)
    what = f"{data.trainer or 'the trainer'} drops the column {names}, which the model asks its keywords for by name"
    fix = "TrainingArguments(remove_unused_columns=False), or an argument of that name in the model's forward"
    return Misplaced(what, fix, {"columns": list(data.columns), "dropped": list(data.dropped)})
