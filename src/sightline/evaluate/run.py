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
from sightline.evaluate.baselines import TextOnly, settled_by_words, text_ceiling, text_only
from sightline.evaluate.calibration import calibration
from sightline.evaluate.gallery import gallery
from sightline.evaluate.leaks import Leaks, count_images, find_leaks, write_leaks
from sightline.evaluate.looking.ask import Again, Asked, ask, group_looking, looking, prepare, sample
from sightline.evaluate.looking.counterfactual import find_pairs
from sightline.evaluate.marks import Marks, accuracy, is_scored, markable, marking, mean
from sightline.evaluate.pairs import evaluate_pairs
from sightline.evaluate.progress import counter
from sightline.evaluate.reach import within_reach
from sightline.evaluate.score import normalise
from sightline.evaluate.texts import evaluate_perplexity
from sightline.evaluate.written import NO_GROUP, is_right, write_predictions
from sightline.evaluate.zero_shot import evaluate_zero_shot
from sightline.models.build import Built
from sightline.recipe.schema import Recipe

Progress = Callable[[int, int], None]


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
    progress: Progress | None = None,
    *,
    precision: Precision = "fp32",
    limit: int | None = None,
) -> dict[str, Any]:
    """Ask `built` every question of `rows`; write `evaluation.json`, `predictions.jsonl` and `gallery.json` to `out`.

    Where the recipe's metric is retrieval, zero-shot or perplexity, no answer is asked for: see `evaluate_pairs`,
    `evaluate_zero_shot`, `evaluate_perplexity`.

    Args:
        train_rows: where the text-only and the majority answer come from, and what images were trained on.
        progress: told (done, in all): images looked at for leaks, then answers; each condition of `evaluate.looking`
            answers every row once more.
        precision: of the forward passes (autocast); the weights stay as they are.
        limit: answer only the first so many rows; the result says `partial`.

    Returns:
        What `evaluation.json` says. `partial` is true where not all rows of the data set were asked.

    Raises:
        UserError: no rows, a row without an answer to be marked by, or no row has a field of `evaluate.group_by`.
    """
    leaks, tell = _leaks(recipe, list(rows[:limit]) if limit else rows, train_rows, progress)
    marks: Sequence[float | None] = ()
    if recipe.evaluate.metric == "retrieval":
        evaluation = evaluate_pairs(recipe, built, rows, tell, precision=precision, limit=limit)
    elif recipe.evaluate.metric == "zero-shot":
        evaluation = evaluate_zero_shot(recipe, built, rows, out, tell, precision=precision, limit=limit)
    elif recipe.evaluate.metric == "perplexity":
        evaluation = evaluate_perplexity(recipe, built, rows, out, tell, precision=precision, limit=limit)
    else:
        evaluation, marks = _evaluate_answers(recipe, built, rows, train_rows, out, tell, precision, limit)
    if leaks is not None:
        evaluation["leaks"] = {**leaks.facts, **_unleaked(leaks, rows, marks), "partial": evaluation["partial"]}
        write_leaks(out, leaks.found)
    write_json(out / "evaluation.json", evaluation)
    return evaluation


def _evaluate_answers(
    recipe: Recipe,
    built: Built,
    rows: Sequence[Row],
    train_rows: Sequence[Row],
    out: Path,
    progress: Progress | None,
    precision: Precision,
    limit: int | None,
) -> tuple[dict[str, Any], Sequence[float | None]]:
    """What `evaluation.json` is to say of the answers to `rows`, and their marks."""
    started = time.perf_counter()
    asked = list(rows[:limit]) if limit else list(rows)
    fields = _fields(asked, recipe)
    evaluation, settings = _head(recipe, asked, rows), recipe.evaluate
    answerer = Answerer(built, batch=settings.batch, max_new_tokens=settings.max_new_tokens, precision=precision)
    marks: Sequence[float | None] = [None] * len(asked)
    if is_scored(settings):
        markable(settings, asked)
        seen, again, chances = _answered(recipe, asked, answerer, progress)
        answers, marks = seen.answers, seen.marks
        evaluation |= _scored(recipe, seen, again, train_rows, fields, partial=evaluation["partial"])
        shown = [row.images[0].key if row.images else str(row.where) for row in asked]
        evaluation["calibration"] = calibration(chances, seen.marks, clusters=shown).facts()
        if answerer.vocabulary:
            evaluation["vocabulary"] = within_reach(answerer.vocabulary, asked, seen.mark)
    else:
        said = answerer.confident(asked, counter(progress, len(asked)))
        answers, chances = [answer for answer, _ in said], [chance for _, chance in said]
    evaluation["seconds"] = time.perf_counter() - started
    groups = next(iter(fields.values()), None)
    write_predictions(out / "predictions.jsonl", asked, answers, marks, groups, chances)
    write_json(out / "gallery.json", gallery(asked, answers, [is_right(mark) for mark in marks], settings.gallery))
    return evaluation, marks


def _leaks(
    recipe: Recipe, asked: Sequence[Row], train_rows: Sequence[Row], progress: Progress | None
) -> tuple[Leaks | None, Progress | None]:
    """The leaks between `train_rows` and `asked`, and a progress that goes on from there."""
    if not recipe.evaluate.leaks:
        return None, progress
    images = count_images(train_rows, asked)
    settings, answers = recipe.evaluate, len(asked)
    if is_scored(settings):
        answers += len(settings.looking) * min(settings.looking_questions, len(asked))
    leaks = find_leaks(train_rows, asked, counter(progress, images + answers))
    streamed = {name for stage in recipe.stages for name in stage.data if recipe.data[name].stream}
    leaks.facts["not_compared"] = sorted(streamed)
    return leaks, (lambda done, total: progress(images + done, images + total)) if progress else None


def _unleaked(leaks: Leaks, rows: Sequence[Row], marks: Sequence[float | None]) -> dict[str, Any]:
    """The accuracy on the questions whose images were not trained on, where that differs from all of them."""
    clean = [mark for row, mark in zip(rows, marks, strict=False) if mark is not None and not leaks.leaked(row)]
    return {"accuracy_without": accuracy(clean)} if clean and leaks.found else {}


def _head(recipe: Recipe, asked: Sequence[Row], rows: Sequence[Row]) -> dict[str, Any]:
    spec = recipe.data[recipe.evaluate.data] if recipe.evaluate.data else None
    cut_short = spec is not None and spec.limit is not None and len(rows) >= spec.limit
    return {
        "data": recipe.evaluate.data,
        "metric": recipe.evaluate.metric,
        "rule": recipe.evaluate.rule if recipe.evaluate.metric == "vqa" else None,
        "questions": len(asked),
        "partial": len(asked) < len(rows) or cut_short,
    }


def _answered(
    recipe: Recipe, asked: list[Row], answerer: Answerer, progress: Progress | None
) -> tuple[Asked, Again, Sequence[float]]:
    """The answers about the right images, then in each condition that the recipe asks for, and the first ones' chances.

    A chance is the probability that the model gives its answer.
    """
    settings = recipe.evaluate
    names = [name for name in settings.looking if name != "shuffled" or settings.shuffled_images]
    places, mark = sample(asked, settings.looking_questions, recipe.seed), marking(settings)
    few = [asked[place] for place in places]
    conditions = prepare(names, few, answerer, recipe.seed)
    made = sum(condition is not None for condition in conditions.values())
    tell = counter(progress, len(asked) + len(few) * made)
    said = answerer.confident(asked, tell)
    answers, chances = [answer for answer, _ in said], [chance for _, chance in said]
    right = [mark(given, row) for given, row in zip(answers, asked, strict=True)]
    seen = Asked(asked, answers, right, mark, find_pairs(asked, mark, recipe.seed))
    return seen, Again(places, ask(conditions, few, mark, answerer, tell)), chances


def _scored(
    recipe: Recipe,
    seen: Asked,
    again: Again,
    train_rows: Sequence[Row],
    fields: dict[str, list[str]],
    *,
    partial: bool,
) -> dict[str, Any]:
    """Accuracy beside its baselines, by group, and whether the model looks."""
    told = looking(seen, again, settled_by_words(seen.rows, seen.mark), partial=partial)
    baselines = _baselines(recipe, seen, train_rows)
    if "shuffled" in again.answered:
        baselines["shuffled_images"] = Baseline(told["conditions"]["shuffled"])
    tables = {name: _by_group(groups, seen, again, baselines) for name, groups in fields.items()}
    return {
        **accuracy(seen.marks),
        "by_group": next(iter(tables.values()), {}),
        "by_field": tables,
        "baselines": {name: baseline.facts for name, baseline in baselines.items()},
        "looking": told,
    }


def _fields(rows: Sequence[Row], recipe: Recipe) -> dict[str, list[str]]:
    """Field of `evaluate.group_by` -> the group of each row."""
    if not rows:
        raise UserError("there is nothing to evaluate: the data set has no rows", where=f"data.{recipe.evaluate.data}")
    for name in recipe.evaluate.grouped_by:
        if not any(name in row.fields for row in rows):
            known = sorted({key for row in rows for key in row.fields})
            raise UserError(
                f"no row has a field '{name}'",
                where="evaluate.group_by",
                fix=f"name one of the rows' fields: {', '.join(known)}" if known else "remove it: the rows have none",
            )
    return {name: [row.fields.get(name, NO_GROUP) for row in rows] for name in recipe.evaluate.grouped_by}


def _baselines(recipe: Recipe, seen: Asked, train_rows: Sequence[Row]) -> dict[str, Baseline]:
    counted = text_only(train_rows, str.strip) if recipe.evaluate.metric == "vqa" else text_only(train_rows)
    missing = Baseline({"accuracy": None, "description": "not measured: there are no training rows to count in"})
    found = {"majority": _majority(seen, counted) if counted else missing}
    if recipe.evaluate.text_only:
        found["text_only"] = _text_only(seen, counted) if counted else missing
    return found


def _majority(seen: Asked, counted: TextOnly) -> Baseline:
    facts = {"answer": counted.overall, "description": "the most frequent training answer, given to every question"}
    return _of_words(seen, [counted.overall] * len(seen.rows), facts)


def _text_only(seen: Asked, counted: TextOnly) -> Baseline:
    answers = [counted.answer(row.question, row.fields.get("question_type")) for row in seen.rows]
    other = "to a question of the same type, or to any" if counted.by_type else "to any question"
    facts: dict[str, Any] = {
        "description": f"the most frequent training answer to the same question text ({other}, where the text is new)",
        "unseen_questions": sum(normalise(row.question) not in counted.by_question for row in seen.rows),
    }
    if settled_by_words(seen.rows, seen.mark) is not None:  # of questions that are asked once, it would bound nothing
        facts["ceiling"] = text_ceiling(seen.rows, seen.mark)
        facts["ceiling_description"] = (
            "the best single answer per question text, chosen with the test answers known: no model that sees the "
            "question alone scores higher on these questions"
        )
    return _of_words(seen, answers, facts)


def _of_words(seen: Asked, answers: Sequence[str], facts: dict[str, Any]) -> Baseline:
    """`answers` that were given without looking, marked and compared as the model's are."""
    marks = [seen.mark(given, row) for given, row in zip(answers, seen.rows, strict=True)]
    return Baseline(accuracy(marks) | seen.compared(marks) | facts, marks)


def _by_group(
    groups: list[str], seen: Asked, again: Again, baselines: dict[str, Baseline]
) -> dict[str, dict[str, Any]]:
    members: dict[str, list[int]] = defaultdict(list)
    for place, group in enumerate(groups):
        members[group].append(place)
    table = {}
    for group, places in sorted(members.items()):
        line = {"questions": len(places)} | accuracy([seen.marks[place] for place in places])
        for name in ("text_only", "majority"):
            other = baselines[name].marks if name in baselines else None
            line[name] = mean([other[place] for place in places]) if other else None
        looks = group_looking(seen, again, places, settled_by_words([seen.rows[place] for place in places], seen.mark))
        table[group] = line | {"shuffled": looks.get("shuffled"), "looking": looks}
    return table
