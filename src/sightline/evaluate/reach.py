"""What a model that chooses from a vocabulary can reach at best: some questions are answered by none of its answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sightline.data.row import Row
from sightline.data.vocabulary import label
from sightline.evaluate.marks import mean


def within_reach(vocabulary: Sequence[str], rows: Sequence[Row], mark: Callable[[str, Row], float]) -> dict[str, Any]:
    """The answers there are to choose from, the rows that none of them is right for, and the best mean mark.

    Tried are the answers that people gave, as the vocabulary holds them.
    """
    known, best = set(vocabulary), list[float]()
    for row in rows:
        given = {label(answer) for answer in (row.answers or (row.answer,))}
        best.append(max((mark(answer, row) for answer in given & known), default=0.0))
    return {"answers": len(vocabulary), "out_of_reach": sum(not each for each in best), "ceiling": mean(best)}
