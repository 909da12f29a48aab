"""Evaluation of a run: answers to all questions, their accuracy against its baselines, and the files that keep them."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightline.atomic import write_json
from sightline.data.row import Row
from sightline.errors import UserError
from sightline.evaluate.answer import Answerer, Precision
from sightline.evaluate.baselines import TextOnly, text_ceiling, text_only, with_other_images
from sightline.evaluate.gallery import gallery
from sightline.evaluate.pairs import evaluate_pairs
from sightline.evaluate.score import exact_match, normalise, wilson
from sightline.evaluate.written import NO_GROUP, write_predictions
from sightline.evaluate.zero_shot import evaluate_zero_shot
from sightline.models.build import Built
from sightline.recipe.schema import Recipe

Marks = list[bool]


@dataclass(frozen=True, slots=True)
class Baseline:
    """The marks of answers that did not come from looking at the right image, or why there are none."""

    facts: dict[str, Any]
    marks: Marks | None = None


def evaluate(
    recipe: Recipe,
    built: Built,
    rows: Sequence[Row],
    train_rows: Sequence[Row],
    out: Path,
    progress: Callable[[int, int], None] | None = None,
    *,
    precision: Precision = "fp32",
    limit: int | None = None,
) -> dict[str, Any]:
    """Ask `built` every question of `rows`; write `evaluation.json`, `predictions.jsonl` and `gallery.json` to `out`.

    Where the recipe's metric is retrieval or zero-shot there are no questions: see `evaluate_pairs`,
    `evaluate_zero_shot`.

    Args:
        train_rows: where the text-only and the majority answer come from.
        progress: told (answers so far, answers in all); the shuffled-images baseline answers every row once more.
        precision: of the forward passes (autocast); the weights stay as they are.
        limit: answer only the first so many rows; the result says `partial`.

    Returns:
        What `evaluation.json` says. `partial` is true where not all rows of the data set were asked.

    Raises:
        UserError: no rows, or no row has the field `evaluate.group_by`.
    """
    if recipe.evaluate.metric in ("retrieval", "zero-shot"):
        judge = evaluate_pairs if recipe.evaluate.metric == "retrieval" else evaluate_zero_shot
        return judge(recipe, built, rows, out, progress, precision=precision, limit=limit)
    started = time.perf_counter()
    asked = list(rows[:limit]) if limit else list(rows)
    groups = _groups(asked, recipe)
    scored = recipe.evaluate.metric == "exact-match"
    others = with_other_images(asked, recipe.seed) if scored and recipe.evaluate.shuffled_images else None
    tell = _counter(progress, len(asked) + len(others or ()))
    settings = {"batch": recipe.evaluate.batch, "max_new_tokens": recipe.evaluate.max_new_tokens}
    answerer = Answerer(built, **settings, precision=precision)
    answers = answerer(asked, tell)
    evaluation = _head(recipe, asked, rows)
    marks: Sequence[bool | None] = [None] * len(asked)
    if scored:
        marks = right = [exact_match(given, row.answer) for given, row in zip(answers, asked, strict=True)]
        baselines = _baselines(recipe, asked, train_rows)
        if recipe.evaluate.shuffled_images:
            baselines["shuffled_images"] = _shuffled(asked, others, answerer, tell)
        evaluation |= _accuracy(right)
        evaluation["by_group"] = _by_group(groups, right, baselines) if recipe.evaluate.group_by else {}
        evaluation["baselines"] = {name: baseline.facts for name, baseline in baselines.items()}
    evaluation["seconds"] = time.perf_counter() - started
    write_predictions(out / "predictions.jsonl", asked, answers, marks, groups)
    write_json(out / "gallery.json", gallery(asked, answers, marks, recipe.evaluate.gallery))
    write_json(out / "evaluation.json", evaluation)
    return evaluation


def _head(recipe: Recipe, asked: Sequence[Row], rows: Sequence[Row]) -> dict[str, Any]:
    spec = recipe.data[recipe.evaluate.data] if recipe.evaluate.data else None
    cut_short = spec is not None and spec.limit is not None and len(rows) >= spec.limit
    return {
        "data": recipe.evaluate.data,
        "metric": recipe.evaluate.metric,
        "questions": len(asked),
        "partial": len(asked) < len(rows) or cut_short,
    }


def _accuracy(marks: Marks) -> dict[str, Any]:
    return {"accuracy": sum(marks) / len(marks), "interval": list(wilson(sum(marks), len(marks)))}


def _groups(rows: Sequence[Row], recipe: Recipe) -> list[str]:
    """The group of each row, all alike where the recipe groups by nothing."""
    if not rows:
        raise UserError("there is nothing to evaluate: the data set has no rows", where=f"data.{recipe.evaluate.data}")
    name = recipe.evaluate.group_by
    if name and not any(name in row.fields for row in rows):
        known = sorted({key for row in rows for key in row.fields})
        raise UserError(
            f"no row has a field '{name}'",
            where="evaluate.group_by",
            fix=f"name one of the rows' fields: {', '.join(known)}" if known else "remove it: the rows have no fields",
        )
    return [row.fields.get(name, NO_GROUP) if name else NO_GROUP for row in rows]


def _baselines(recipe: Recipe, rows: Sequence[Row], train_rows: Sequence[Row]) -> dict[str, Baseline]:
    counted = text_only(train_rows)
    missing = Baseline({"accuracy": None, "description": "not measured: there are no training rows to count in"})
    found = {"majority": _majority(rows, counted) if counted else missing}
    if recipe.evaluate.text_only:
        found["text_only"] = _text_only(rows, counted) if counted else missing
    return found


def _majority(rows: Sequence[Row], counted: TextOnly) -> Baseline:
    marks = [exact_match(counted.overall, row.answer) for row in rows]
    facts = {"answer": counted.overall, "description": "the most frequent training answer, given to every question"}
    return Baseline(_accuracy(marks) | facts, marks)


def _text_only(rows: Sequence[Row], counted: TextOnly) -> Baseline:
    marks = [exact_match(counted.answer(row.question), row.answer) for row in rows]
    facts = {
        "description": "the most frequent training answer to the same question text (to any question, where the text "
        "is new)",
        "unseen_questions": sum(normalise(row.question) not in counted.by_question for row in rows),
        "ceiling": text_ceiling(rows),
        "ceiling_description": "the best single answer per question text, chosen with the test answers known: no model "
        "that sees the question alone scores higher on these questions",
    }
    return Baseline(_accuracy(marks) | facts, marks)


def _shuffled(
    rows: Sequence[Row], others: list[Row] | None, answerer: Answerer, tell: Callable[[int], None]
) -> Baseline:
    if others is None:
        return Baseline({"accuracy": None, "description": "not measured: too few different images to exchange them"})
    answers = answerer(others, tell)
    marks = [exact_match(given, row.answer) for given, row in zip(answers, rows, strict=True)]
    description = "the same model and questions, every image exchanged for another one"
    if without := sum(not row.images for row in rows):
        description += f" ({without} of the questions have no image and stay as they are)"
    return Baseline(_accuracy(marks) | {"description": description}, marks)


def _by_group(groups: list[str], marks: Marks, baselines: dict[str, Baseline]) -> dict[str, dict[str, Any]]:
    members: dict[str, list[int]] = defaultdict(list)
    for place, group in enumerate(groups):
        members[group].append(place)
    table = {}
    for group, places in sorted(members.items()):
        line = {"questions": len(places)} | _accuracy([marks[place] for place in places])
        for name, key in (("shuffled_images", "shuffled"), ("text_only", "text_only"), ("majority", "majority")):
            other = baselines[name].marks if name in baselines else None
            line[key] = sum(other[place] for place in places) / len(places) if other else None
        table[group] = line
    return table


def _counter(progress: Callable[[int, int], None] | None, total: int) -> Callable[[int], None]:
    done = 0

    def tell(more: int) -> None:
        nonlocal done
        done += more
        if progress:
            progress(done, total)

    return tell
