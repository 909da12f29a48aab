"""`predictions.jsonl`: what was asked, what the model said, and what is true."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from sightline.atomic import write_text
from sightline.data.row import Row

NO_GROUP = "(none)"
HALF = 0.5  # an answer with a lesser mark is shown as wrong


def write_predictions(
    path: Path,
    rows: Sequence[Row],
    answers: Sequence[str],
    marks: Sequence[float | None],
    groups: Sequence[str] | None = None,
    chances: Sequence[float] | None = None,
) -> None:
    """One line a row. `marks` are None where nothing is scored; `groups` are of the first field that is grouped by.

    `chances`: the probability that the model gives each answer.
    """
    lines = [
        {
            "where": str(row.where),
            "question": row.question,
            "answer": answers[place],
            "truth": row.answer,
            "correct": is_right(mark),
            "mark": mark if mark is None else float(mark),
            "confidence": chances[place] if chances else None,
            "group": groups[place] if groups and groups[place] != NO_GROUP else None,
            "image_key": row.images[0].key if row.images else None,
        }
        for place, (row, mark) in enumerate(zip(rows, marks, strict=True))
    ]
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def is_right(mark: float | None) -> bool | None:
    """Whether an answer is shown as right: most of what its mark can be."""
    return None if mark is None else mark >= HALF
