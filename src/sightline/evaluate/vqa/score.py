"""VQA accuracy of a file of predictions: overall, by answer type, by question type and for each question."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sightline.errors import UserError, nearest
from sightline.evaluate.json_file import Source
from sightline.evaluate.score import wilson
from sightline.evaluate.vqa import entries
from sightline.evaluate.vqa.entries import ANNOTATIONS, PREDICTIONS, QUESTIONS, Id
from sightline.evaluate.vqa.rules import ENOUGH, RULES, Rule, added

WithoutIds = Literal["refuse", "number", "merge"]
DIGITS = 2  # per cent are rounded to
RESAMPLES = 1000
TYPES = ("answer_type", "question_type")
UNTYPED = "not given"


@dataclass(slots=True)
class VqaScore:
    """The marks of all questions that were scored, in the order of the annotations, and what they come to.

    Attributes:
        questions: the ids.
        marks: accuracies in [0, 1].
        types: by the name of the kind of type, each question's; a kind that the file does not have is left out.
        images: each question's image; empty where the file does not tell.
        unanswered: questions left out for want of a prediction, or because one of the files does not have them.
        unknown: predictions left out because they are for none of the questions.
        capped: questions with so few answers that no prediction is worth 100.
        without_ids: what was done with answers that no id tells apart; None where each has one.
    """

    rule: str
    questions: list[Id] = field(default_factory=list)
    marks: list[float] = field(default_factory=list)
    types: dict[str, list[str]] = field(default_factory=lambda: {kind: [] for kind in TYPES})
    images: list[Any] = field(default_factory=list)
    unanswered: int = 0
    unknown: int = 0
    capped: int = 0
    without_ids: WithoutIds | None = None

    def settle(self) -> None:
        """Forget what the annotations do not tell."""
        self.types = {kind: names for kind, names in self.types.items() if set(names) != {UNTYPED}}
        if None in self.images:
            self.images = []

    @property
    def partial(self) -> bool:
        """Whether questions or predictions were left out."""
        return self.unanswered > 0 or self.unknown > 0

    @property
    def overall(self) -> float:
        """Per cent, rounded as the official code does."""
        return rounded(self.marks)

    @property
    def per_answer_type(self) -> dict[str, float]:
        """Per cent by answer type, in the order of their first question."""
        return {name: rounded(marks) for name, marks in self.by_type("answer_type").items()}

    @property
    def per_question_type(self) -> dict[str, float]:
        """Per cent by question type, in the order of their first question."""
        return {name: rounded(marks) for name, marks in self.by_type("question_type").items()}

    @property
    def per_question(self) -> dict[Id, float]:
        """Per cent by question."""
        return {question: round(100 * mark, DIGITS) for question, mark in zip(self.questions, self.marks, strict=True)}

    def by_type(self, kind: str) -> dict[str, list[float]]:
        """The marks by answer or question type."""
        found: dict[str, list[float]] = {}
        for name, mark in zip(self.types[kind], self.marks, strict=True) if kind in self.types else ():
            found.setdefault(name, []).append(mark)
        return found

    def interval(self) -> tuple[float, float] | None:
        """Of the overall accuracy, in per cent: 95 %, bootstrap over images where the file has them, else questions.

        Where all answers are right, or all are wrong, resampling would tell of no doubt: Wilson's interval does. None
        for a single image.
        """
        from sightline.evaluate.bootstrap import interval

        drawn = len(set(self.images)) or len(self.marks)
        if set(self.marks) in ({0.0}, {1.0}):
            ends = wilson(drawn if self.marks[0] else 0, drawn)
        elif drawn == 1:
            return None
        else:
            ends = interval(self.marks, clusters=self.images or None, resamples=RESAMPLES)
        return round(100 * ends[0], DIGITS), round(100 * ends[1], DIGITS)

    def facts(self) -> dict[str, Any]:
        """What `sightline score vqa --json` prints."""
        left_out = {"unanswered": self.unanswered, "unknown_predictions": self.unknown} if self.partial else {}
        return {
            "rule": self.rule,
            "overall": self.overall,
            "interval": None if (ends := self.interval()) is None else list(ends),
            "interval_over": "images" if self.images else "questions",
            "per_answer_type": self.per_answer_type,
            "per_question_type": self.per_question_type,
            "questions": len(self.questions),
            "questions_with_too_few_answers_for_100": self.capped,
            "answers_without_ids": self.without_ids,
            "partial": self.partial,
            **left_out,
        }


def rounded(marks: Sequence[float]) -> float:
    """The mean of `marks` in per cent, to two digits, by the operations of the official code in their order."""
    return round(100 * added(marks) / len(marks), DIGITS)


def score_vqa(
    questions: Source | None,
    annotations: Source,
    predictions: Source,
    *,
    rule: str = "official",
    partial: bool = False,
    without_ids: WithoutIds = "refuse",
) -> VqaScore:
    """Score predictions against what people answered.

    Args:
        questions: a file, or what it holds; None where the annotations are trusted to be of all questions.
        rule: one of `RULES`.
        partial: score only questions that all files have; otherwise one that is missing somewhere is an error.
        without_ids: what to do with answers that have no ids to tell them apart (VizWiz): "number" counts each as its
            own, "merge" leaves equal ones out together, as the codes of all three rules do when run on such files.

    Raises:
        UserError: what is wrong with the files, or does not fit together.
    """
    if rule not in RULES:
        raise UserError(f"there is no rule '{rule}'", where="--rule", fix=nearest(rule, RULES))
    with _no_collection():
        return _scored(questions, annotations, predictions, RULES[rule], partial, without_ids)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Millions of answers come and go without circles: looking for some would take a fifth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _scored(
    questions: Source | None,
    annotations: Source,
    predictions: Source,
    judge: Rule,
    partial: bool,
    without_ids: WithoutIds,
) -> VqaScore:
    given = entries.predicted(predictions)
    asked = None if questions is None else entries.asked(questions)
    score, left_out = VqaScore(judge.name), _LeftOut()
    answer_types, question_types = (score.types[kind] for kind in TYPES)
    annotated: list[Id] = []
    lone = 0
    for question, answers, besides, answer_type, question_type, image in entries.annotated(annotations):
        annotated.append(question)
        if asked is not None and question not in asked and other_spelling(question) not in asked:
            left_out.unasked.append(question)
            continue
        prediction = given.pop(question, None)
        if prediction is None:
            prediction = given.pop(other_spelling(question), None)
        if prediction is None:
            left_out.unpredicted.append(question)
            continue
        if besides is not None:
            besides, score.without_ids = _settled(besides, question, without_ids), without_ids
        score.questions.append(question)
        score.marks.append(judge(prediction, answers, besides))
        answer_types.append(answer_type or UNTYPED)
        question_types.append(question_type or UNTYPED)
        score.images.append(image)
        if len(answers) <= ENOUGH:
            score.capped += 1
            lone += len(answers) == 1
    _once_each(annotated)
    left_out.unannotated = _unannotated(asked or set(), annotated)
    left_out.unknown = list(given)
    left_out.judge(len(annotated), partial, bool(score.marks))
    _more_than_one_answer(lone, len(score.marks))
    score.unanswered = len(left_out.unasked) + len(left_out.unpredicted) + len(left_out.unannotated)
    score.unknown = len(left_out.unknown)
    score.settle()
    return score


def other_spelling(question: Id) -> Id:
    """17 for "17", and "17" for 17: files disagree on whether ids are numbers."""
    if isinstance(question, int):
        return str(question)
    numeral = question.isdecimal() and len(question) < 20
    return int(question) if numeral and str(int(question)) == question else question


def _once_each(annotated: list[Id]) -> None:
    if len(set(annotated)) < len(annotated):
        raise UserError(f"question {entries.twice(annotated)} is annotated more than once", where=ANNOTATIONS)


def _unannotated(asked: set[Id], annotated: list[Id]) -> list[Id]:
    missing = asked.difference(annotated)
    return [] if not missing else list(missing.difference(map(other_spelling, annotated)))


def _more_than_one_answer(lone: int, scored: int) -> None:
    if lone == scored:
        raise UserError(
            "each question has one answer, and a rule that leaves one out gives every prediction 0",
            where=ANNOTATIONS,
            fix="judge a run with evaluate.metric: exact-match where there is one answer a question (GQA)",
        )


@dataclass(slots=True)
class _LeftOut:
    """Questions that not every file has."""

    unannotated: list[Id] = field(default_factory=list)
    unasked: list[Id] = field(default_factory=list)
    unpredicted: list[Id] = field(default_factory=list)
    unknown: list[Id] = field(default_factory=list)

    def judge(self, annotated: int, partial: bool, anything: bool) -> None:
        """Raise UserError where something is missing that was not said to be, or all of it."""
        found = (
            (self.unannotated, QUESTIONS, "questions without an annotation"),
            (self.unasked, ANNOTATIONS, "annotations of questions that are not asked"),
            (self.unpredicted, PREDICTIONS, "questions without a prediction"),
            (self.unknown, PREDICTIONS, "predictions for questions that nothing asks"),
        )
        fix = "give all files of one split, or score the questions that they share with --partial"
        if not anything:
            fix = "give all files of one split"
        for missing, file, what in found:
            if missing and not (partial and anything):
                count = f"{len(missing):,} of {annotated:,}" if missing is self.unpredicted else f"{len(missing):,}"
                raise UserError(f"{what}: {count} (the first: {missing[0]})", where=file, fix=fix)


def _settled(besides: list[Hashable], question: Id, without_ids: WithoutIds) -> list[Hashable] | None:
    """What tells equal answers apart that have no ids: nothing, or all that stands beside them."""
    if without_ids == "refuse":
        raise UserError(
            f"the answers to question {question} have no ids (answer_id) that differ. The code of this rule takes equal"
            " entries for one: leaving out one of ten people who agree would leave none, and every prediction gets 0",
            where=ANNOTATIONS,
            fix="--without-ids number counts each answer as a person's; --without-ids merge does what that code does",
        )
    return besides if without_ids == "merge" else None
