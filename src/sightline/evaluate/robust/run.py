"""How a trained run breaks: attacks, corruptions, words and contradictions, measured and written down."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sightline.atomic import write_json
from sightline.data.images import load_image
from sightline.data.row import ImageRef, Row
from sightline.errors import UserError
from sightline.evaluate.answer import Precision
from sightline.evaluate.bootstrap import paired
from sightline.evaluate.marks import accuracy, is_scored, mean
from sightline.evaluate.marks import marks as marks_of
from sightline.evaluate.progress import counter
from sightline.evaluate.robust import trust
from sightline.evaluate.robust.contradiction import contradicted
from sightline.evaluate.robust.corruptions.catalogue import ALL, corrupted, family_of
from sightline.evaluate.robust.curves import Curve, Marking, Trial, curves
from sightline.evaluate.robust.shown import png
from sightline.evaluate.robust.trust import Foreign
from sightline.evaluate.robust.view import AnswerView, View
from sightline.evaluate.robust.view_classes import ClassView
from sightline.evaluate.robust.view_patches import PatchView, cuts_patches
from sightline.evaluate.robust.words import said_otherwise
from sightline.evaluate.score import exact_match
from sightline.models.build import Built
from sightline.recipe.robust import Contradiction, Corruption, Words
from sightline.recipe.schema import Evaluate, Recipe

FILE = "robustness.json"
ATTACKED = (
    "the pixels that the vision tower is given, 0 to 1, before its mean and standard deviation are taken out; rounded "
    "to 8 bits within the bound and answered about as image files; 'floats' are the answers before that rounding"
)


def measure(
    recipe: Recipe,
    built: Built,
    rows: Sequence[Row],
    out: Path,
    progress: Callable[[int, int], None] | None = None,
    *,
    precision: Precision = "fp32",
    limit: int | None = None,
    foreign: tuple[Built, str] | str = "no other model was given",
) -> dict[str, Any]:
    """Attack, corrupt, reword and contradict `rows`; write `robustness.json` into `out` and return what it says.

    Args:
        limit: of the rows, in place of `evaluate.robust.questions`.
        foreign: another model and its name, for the transferred attack; or why there is none.

    Raises:
        UserError: no rows with a picture, a metric that marks no answers, or a model whose pixels cannot be attacked.
    """
    started, settings = time.perf_counter(), recipe.evaluate.robust
    asked = chosen(rows, limit or settings.questions, recipe.seed)
    view = view_of(recipe.evaluate, built, asked, settings.batch, precision)
    mark = marking(recipe.evaluate)
    tell = counter(progress, _work(recipe.evaluate, asked))
    trial = Trial(view, mark, recipe.seed, tell)
    answers = view.answer(asked)
    clean = mark(asked, answers)
    tell(len(asked))
    drawn = curves(trial, asked, settings.attacks, answers, settings.pictures)
    found: dict[str, Any] = {
        "data": recipe.evaluate.data,
        "metric": recipe.evaluate.metric,
        **({"rule": recipe.evaluate.rule} if recipe.evaluate.metric == "vqa" else {}),
        "questions": len(asked),
        "of": len(rows),
        "partial": len(asked) < len(rows),
        "seed": recipe.seed,
        "precision": precision,
        "attacked": ATTACKED,
        "clean": accuracy(clean),
        "attacks": [_curve(curve) for curve in drawn],
        "checks": [each.facts() for each in trust.checks(trial, asked, drawn, _foreign(recipe, foreign, asked))],
        "corruptions": _corruptions(trial, asked, clean, recipe.evaluate),
        "words": _words(trial, asked, clean, settings.words),
        "contradiction": _contradictions(trial, asked, settings.contradiction),
        "pictures": _some_of_each(drawn, settings.pictures),
    }
    found["seconds"] = time.perf_counter() - started
    write_json(out / FILE, found)
    return found


def chosen(rows: Sequence[Row], most: int | None, seed: int) -> list[Row]:
    """Up to `most` rows with a picture, drawn by the seed and in their order. Raises UserError where there are none."""
    shown = [row for row in rows if row.images]
    if not shown:
        what = "no row has a picture" if rows else "there is nothing to ask: the data set has no rows"
        raise UserError(what, where="evaluate.data", fix="name a data set of questions about pictures")
    if most is None or most >= len(shown):
        return shown
    places = sorted(random.Random(seed).sample(range(len(shown)), most))
    return [shown[place] for place in places]


def view_of(spec: Evaluate, built: Built, rows: Sequence[Row], batch: int, precision: Precision) -> View:
    """The model as its metric asks it: for answers, or for zero-shot classes."""
    if spec.metric == "zero-shot":
        return ClassView(built, spec, rows, batch=batch, precision=precision)
    make = PatchView if cuts_patches(built.encoder) else AnswerView
    return make(built, batch=batch, max_new_tokens=spec.max_new_tokens, precision=precision)


def marking(spec: Evaluate) -> Marking:
    """How answers are marked. Raises UserError where the metric marks none."""
    if spec.metric == "zero-shot":
        return lambda rows, said: [float(one == row.answer) for one, row in zip(said, rows, strict=True)]
    if not is_scored(spec):
        fix = "set evaluate.metric to exact-match, vqa or zero-shot"
        raise UserError(
            f"metric {spec.metric} marks no answers, so none can be broken", where="evaluate.metric", fix=fix
        )
    return lambda rows, said: marks_of(spec, rows, said)


def _foreign(recipe: Recipe, given: tuple[Built, str] | str, rows: Sequence[Row]) -> Foreign | str:
    if isinstance(given, str):
        return given
    built, name = given
    return Foreign(view_of(recipe.evaluate, built, rows, recipe.evaluate.robust.batch, "fp32"), name)


def _curve(curve: Curve) -> dict[str, Any]:
    attack = curve.attack
    facts: dict[str, Any] = {
        "name": attack.name,
        "kind": attack.kind,
        "norm": None if attack.kind == "patch" else attack.norm,
    }
    if attack.kind != "fgsm":
        facts |= {"steps": attack.steps, "step_size": attack.step_size, "restarts": attack.restarts}
    return facts | {"points": [tally.facts() for tally in curve.tallies]}


def _some_of_each(drawn: Sequence[Curve], most: int) -> list[dict[str, Any]]:
    """Up to `most` pictures, the attacks by turns."""
    turns = [picture for place in range(most) for curve in drawn for picture in curve.pictures[place : place + 1]]
    fresh: list[dict[str, Any]] = []
    again: list[dict[str, Any]] = []
    seen: set[tuple[str, str]] = set()
    for picture in turns:  # the same question about the same picture comes after all others
        shown = picture["question"], picture["clean"]
        (again if shown in seen else fresh).append(picture)
        seen.add(shown)
    return [*fresh, *again][:most]


def _corruptions(trial: Trial, rows: Sequence[Row], clean: Sequence[float], spec: Evaluate) -> dict[str, Any]:
    wanted = ALL if spec.robust.corruptions == "all" else spec.robust.corruptions
    side = side_of(trial.view)
    table: dict[str, Any] = {}
    for name in wanted:
        line: dict[str, Any] = {"family": family_of(name), "severities": {}}
        for severity in sorted(set(spec.robust.severities)):
            seen = [_corrupted(row, name, severity, trial.seed, side) for row in rows]
            marks = trial.mark(rows, trial.view.answer(seen))
            line["severities"][str(severity)] = _beside(marks, clean)
            trial.tell(len(rows))
        line["accuracy"] = mean([each["accuracy"] for each in line["severities"].values()])
        table[name] = line
    if not table:
        return {}
    return {"side": side, "mean": mean([line["accuracy"] for line in table.values()]), "table": table}


def side_of(view: View) -> int:
    """The shorter side that larger pictures are brought to before they are corrupted: the tower's, at least 224."""
    facts = getattr(view.encoder, "image_processor", None)
    return max(224, facts.size) if facts is not None else 448


def _corrupted(row: Row, name: Corruption, severity: int, seed: int, side: int) -> Row:
    images = tuple(
        ImageRef(f"{ref.key}|{name}|{severity}|{seed}", data=png(
            corrupted(load_image(ref, row.where), name, severity, seed, side)))
        for ref in row.images
    )  # fmt: skip
    return replace(row, images=images)


def _beside(marks: Sequence[float], clean: Sequence[float]) -> dict[str, Any]:
    """An accuracy, and what was lost against the clean one, question by question."""
    lost = paired(clean, marks)
    return {**accuracy(marks), "lost": lost.mean, "lost_interval": [lost.low, lost.high]}


def _words(trial: Trial, rows: Sequence[Row], clean: Sequence[float], changes: Sequence[Words]) -> dict[str, Any]:
    if isinstance(trial.view, ClassView):
        return {}
    found: dict[str, Any] = {}
    for change in changes:
        said = [said_otherwise(row, change, trial.seed) for row in rows]
        marks = trial.mark(rows, trial.view.answer(said))
        found[change] = _beside(marks, clean) | {"before": rows[0].question, "after": said[0].question}
        trial.tell(len(rows))
    return found


def _contradictions(trial: Trial, rows: Sequence[Row], ways: Sequence[Contradiction]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for how in ways:
        if how == "asserted" and isinstance(trial.view, ClassView):
            continue  # a class is asked for by no question
        pairs = contradicted(rows, how, trial.seed)
        if not pairs:
            found[how] = {"questions": 0}
            continue
        said = trial.view.answer([each.row for each in pairs])
        control = trial.view.answer([each.control for each in pairs])
        marks, beside = trial.mark([each.row for each in pairs], said), trial.mark([p.row for p in pairs], control)
        followed = [float(exact_match(answer, each.false)) for answer, each in zip(said, pairs, strict=True)]
        by_itself = [float(exact_match(answer, each.false)) for answer, each in zip(control, pairs, strict=True)]
        found[how] = {
            "questions": len(pairs),
            **_beside(marks, beside),
            "control": accuracy(beside),
            "followed": accuracy(followed),
            "followed_unasked": accuracy(by_itself),
            "example": {"question": pairs[0].row.question, "false": pairs[0].false, "truth": pairs[0].row.answer},
        }
        trial.tell(len(rows))
    return found


def _work(spec: Evaluate, rows: Sequence[Row]) -> int:
    """Rows that will be told of."""
    robust = spec.robust
    bounds = sum(len(attack.epsilon) for attack in robust.attacks)
    names = len(ALL) if robust.corruptions == "all" else len(robust.corruptions)
    rounds = 1 + bounds + names * len(set(robust.severities)) + len(robust.words) + len(robust.contradiction)
    return rounds * len(rows) + trust.cost(robust.attacks, len(rows))
