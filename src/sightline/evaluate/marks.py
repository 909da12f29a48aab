"""How right each answer is: a mark from 0 to 1, and the accuracy and interval of many marks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from sightline.data.row import Row
from sightline.errors import UserError
from sightline.evaluate.baselines import by_exact_match
from sightline.evaluate.bootstrap import interval
from sightline.evaluate.score import wilson
from sightline.evaluate.vqa import RULES
from sightline.recipe.schema import Evaluate

Marks = list[float]
Mark = Callable[[str, Row], float]
FEWEST_PEOPLE = 2  # by VQA's rules an answer is right as far as others agree with it


def is_scored(settings: Evaluate) -> bool:
    """Whether each answer gets a mark of its own."""
    return settings.metric in ("exact-match", "vqa")


def marking(settings: Evaluate) -> Mark:
    """(answer, row) -> mark: 0 or 1 by exact match with the row's answer, or what the VQA rule gives."""
    if settings.metric == "vqa":
        rule = RULES[settings.rule]
        return lambda given, row: rule(given, row.answers)
    return by_exact_match


def marks(settings: Evaluate, rows: Sequence[Row], answers: Sequence[str]) -> Marks:
    """The mark of each answer.

    Raises:
        UserError: a row holds no answer to be marked by, or fewer people's answers than a VQA rule can count.
    """
    markable(settings, rows)
    mark = marking(settings)
    return [mark(given, row) for given, row in zip(answers, rows, strict=True)]


def markable(settings: Evaluate, rows: Sequence[Row]) -> None:
    """Raise UserError at the first of `rows` that holds no answer to be marked by."""
    for row in rows:
        if settings.metric == "vqa" and len(row.answers) < FEWEST_PEOPLE:
            what = f"the row holds {len(row.answers)} answers, and a VQA rule counts how many people agree"
            fix = "set evaluate.metric: exact-match, or none where the answers are not public"
            raise UserError(what, where=str(row.where), fix=fix)
        if not row.answered:
            fix = "set evaluate.metric: none, and hand in answers to a test split by sightline eval RUN --submit FILE"
            raise UserError("the row holds no answer to be marked by", where=str(row.where), fix=fix)


def mean(marks: Sequence[float]) -> float:
    """The mean mark."""
    return math.fsum(marks) / len(marks)


def accuracy(marks: Sequence[float]) -> dict[str, Any]:
    """The mean mark and its 95 % interval: Wilson's where every mark is 0 or 1, else the bootstrap's over questions."""
    whole = all(mark in (0.0, 1.0) for mark in marks)
    ends = wilson(round(sum(marks)), len(marks)) if whole else interval(marks)
    return {"accuracy": mean(marks), "interval": list(ends)}
