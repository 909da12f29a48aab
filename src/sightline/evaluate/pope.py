"""POPE: does a model see objects that are not there? Yes-no questions, half of them about absent objects.

Li et al., arXiv 2305.10355. An object that is asked about is drawn at `random`, from the `popular` ones, or from those
that often stand beside what the image shows (`adversarial`). A model that says yes to everything is right on half of
them: read accuracy beside the share of yes.

Two readings of an answer are in use, and both are named in every output:

- `official` (RUCAIBox/POPE, evaluate.py): an answer is a no where its first sentence has the word "no", "No" or "not",
  and else a yes, whatever it says. Babble counts as yes.
- `lmms-eval` (0.7.3): an answer is what it is when it is exactly yes or no (case and outer spaces aside), and else
  neither: wrong, and in neither precision nor recall. (Its "yes ratio" is that of the labels; ours is the answers'.)
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.errors import UserError, nearest
from sightline.evaluate import bootstrap
from sightline.evaluate.json_file import Source, members

Array = NDArray[np.float64]
CATEGORIES = ("random", "popular", "adversarial")
FIGURES = ("accuracy", "precision", "recall", "f1", "yes_ratio")
ANNOTATIONS, PREDICTIONS = "--annotations", "--predictions"


def _official(answer: str) -> str:
    words = answer.partition(".")[0].replace(",", "").split(" ")
    return "no" if {"no", "No", "not"} & set(words) else "yes"


def _exactly(answer: str) -> str | None:
    said = answer.lower().strip()
    return said if said in ("yes", "no") else None


RULES: dict[str, Callable[[str], str | None]] = {"official": _official, "lmms-eval": _exactly}


@dataclass(frozen=True, slots=True)
class Asked:
    """A question with its label, what the model said, the category and the image."""

    label: str
    answer: str
    category: str
    image: Hashable


def score_pope(
    annotations: Sequence[Source], predictions: Sequence[Source], *, rule: str = "official"
) -> dict[str, Any]:
    """Accuracy, precision, recall, F1 and the share of yes, of all questions and by category, with 95 % intervals.

    Args:
        annotations: files of {question_id, image, text, label}; a category is told by the field `category`, or by the
            file's name (coco_pope_random.json).
        predictions: as many files, in their order, of {question_id, answer}; records without ids are in the order of
            the questions.

    Raises:
        UserError: what is wrong with the files, or does not fit together.
    """
    if rule not in RULES:
        raise UserError(f"there is no rule '{rule}'", where="--rule", fix=nearest(rule, RULES))
    if len(annotations) != len(predictions):
        what = f"{len(predictions)} files of predictions are for {len(annotations)} files of annotations"
        raise UserError(what, where=PREDICTIONS, fix="give one for each, in the same order")
    asked = [each for pair in zip(annotations, predictions, strict=True) for each in _asked(*pair)]
    known = [each.category for each in asked]
    categories = [name for name in CATEGORIES if name in known] + sorted(set(known) - set(CATEGORIES))
    by_category = {name: figures([each for each in asked if each.category == name], rule) for name in categories}
    return {"rule": rule, **figures(asked, rule), "by_category": by_category, "partial": False}


def figures(asked: Sequence[Asked], rule: str = "official") -> dict[str, Any]:
    """The figures of some questions, in [0, 1], None where one is not defined (a precision without a yes)."""
    columns = np.asarray([_counts(each.label, RULES[rule](each.answer)) for each in asked], float)
    resampled = bootstrap.resampled(columns, clusters=[each.image for each in asked])
    values, again = _figures(columns.sum(0, keepdims=True)), _figures(resampled)
    told: dict[str, Any] = {"questions": len(asked), "unclear": int(columns[:, 4].sum())}
    intervals = {}
    for place, name in enumerate(FIGURES):
        value = float(values[0, place])
        told[name] = None if np.isnan(value) else value
        drawn = again[:, place]
        intervals[name] = list(bootstrap.middle(drawn[~np.isnan(drawn)])) if told[name] is not None else None
    return told | {"intervals": intervals}


def _counts(label: str, said: str | None) -> tuple[bool, bool, bool, bool, bool]:
    """True and false positives, true and false negatives, and what is neither."""
    yes, right = said == "yes", said == label
    return yes and right, yes and not right, said == "no" and right, said == "no" and not right, said is None


def _figures(sums: Array) -> Array:
    """(R, 5) counts to (R, 5) figures."""
    hit, alarm, rejected, missed, _ = sums.T
    total = sums.sum(1)
    with np.errstate(invalid="ignore"):
        precision, recall = hit / (hit + alarm), hit / (hit + missed)
        return np.stack(
            [(hit + rejected) / total, precision, recall, 2 * hit / (2 * hit + alarm + missed), (hit + alarm) / total],
            axis=1,
        )


def _asked(annotations: Source, predictions: Source) -> Iterator[Asked]:
    questions, given = list(_records(annotations, ANNOTATIONS)), list(_records(predictions, PREDICTIONS))
    if len(questions) != len(given):
        raise UserError(f"{len(given):,} predictions are for {len(questions):,} questions", where=PREDICTIONS)
    if all("question_id" in record for record in [*questions, *given]):
        given = _in_order(questions, given)
    name = str(annotations).lower() if not isinstance(annotations, (dict, list)) else ""
    of_file = next((category for category in CATEGORIES if category in name.rpartition("/")[2]), "all")
    for number, (question, prediction) in enumerate(zip(questions, given, strict=True), start=1):
        label = str(question.get("label", question.get("answer", ""))).lower().strip()
        if label not in ("yes", "no"):
            raise UserError(f"question {number} has '{label}' for its label, not yes or no", where=ANNOTATIONS)
        answer = next((prediction[name] for name in ("answer", "prediction", "text") if name in prediction), None)
        if not isinstance(answer, str):
            raise UserError(f"prediction {number} has {answer!r} for its answer, not text", where=PREDICTIONS)
        image = question.get("image", question.get("image_source", number))
        yield Asked(label, answer, str(question.get("category", of_file)), str(image))


def _in_order(questions: list[dict[str, Any]], given: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The predictions in the order of their questions."""
    by_id = {str(record["question_id"]): record for record in given}
    if len(by_id) < len(given):
        raise UserError("a question has more than one prediction", where=PREDICTIONS)
    ids = [str(record["question_id"]) for record in questions]
    if len(set(ids)) < len(ids):
        raise UserError("a question stands there more than once", where=ANNOTATIONS)
    if missing := [each for each in ids if each not in by_id]:
        what = f"{len(missing):,} questions have no prediction (the first: {missing[0]})"
        raise UserError(what, where=PREDICTIONS, fix="give predictions for these very questions")
    return [by_id[each] for each in ids]


def _records(source: Source, file: str) -> Iterator[dict[str, Any]]:
    empty = True
    for _, value in members(source, file):
        for record in value if isinstance(value, list) else ():
            if not isinstance(record, dict):
                raise UserError(f"has {record!r:.60}, not an object with named fields", where=file)
            empty = False
            yield record
    if empty:
        raise UserError("has no records", where=file, fix="give a JSON list, or JSON lines")
