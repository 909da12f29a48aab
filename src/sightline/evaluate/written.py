"""`predictions.jsonl`: what was asked, what the model said, and what is true."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from sightline.atomic import write_text
from sightline.data.row import Row

NO_GROUP = "(none)"


def write_predictions(
    path: Path, rows: Sequence[Row], answers: Sequence[str], marks: Sequence[bool | None], groups: list[str]
) -> None:
    """One line a row; `marks` are None where nothing is scored."""
    lines = [
        {
            "where": str(row.where),
            "question": row.question,
            "answer": answers[place],
            "truth": row.answer,
            "correct": marks[place],
            "group": groups[place] if groups[place] != NO_GROUP else None,
            "image_key": row.images[0].key if row.images else None,
        }
        for place, row in enumerate(rows)
    ]
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
