"""VQA accuracy of a file of predictions: overall, by answer type, by question type and for each question."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from sightline.errors import UserError, nearest
from sightline.evaluate.json_file import Source
from sightline.evaluate.vqa import entries
from sightline.evaluate.vqa.entries import ANNOTATIONS, PREDICTIONS, QUESTIONS, Id
from sightline.evaluate.vqa.rules import ENOUGH, RULES, added

WithoutIds = Literal["refuse", "number", "merge"]
DIGITS = 2  # per cent are rounded to
RESAMPLES = 1000
TYPES = ("answer_type", "question_type")
UNTYPED = "not given"
V = TypeVar("V")


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
    """

    rule: str
    questions: list[Id] = field(default_factory=list)
    marks: list[float] = field(default_factory=list)
    types: dict[str, list[str]] = field(default_factory=lambda: {kind: [] for kind in TYPES})
    images: list[Any] = field(default_factory=list)
    unanswered: int = 0
    unknown: int = 0
    capped: int = 0

    def add(self, question: Id, mark: float, record: dict[str, Any]) -> None:
        """Keep the mark of a question and what its annotation says of it."""
        self.questions.append(question)
        self.marks.append(mark)
        for kind, names in self.types.items():
            names.append(record.get(kind) or UNTYPED)
        self.images.append(record.get("image_id") or record.get("image"))

    def settle(self) -> None:
        """Forget what the annotations do not tell."""
        for kind, names in self.types.items():
            if odd := next((name for name in names if not isinstance(name, str)), None):
                raise UserError(f"a question has {odd!r} for its {kind}, not text", where=ANNOTATIONS)
        self.types = {kind: names for kind, names in self.types.items() if set(names) != {UNTYPED}}
        if None in self.images or not all(isinstance(image, (int, str)) for image in self.images):
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

    def interval(self) -> tuple[float, float]:
        """Of the overall accuracy, in per cent: 95 %, bootstrap over images where the file has them, else questions."""
        from sightline.evaluate.bootstrap import interval

        low, high = interval(self.marks, clusters=self.images or None, resamples=RESAMPLES)
        return round(100 * low, DIGITS), round(100 * high, DIGITS)

    def facts(self) -> dict[str, Any]:
        """What `sightline score vqa --json` prints."""
        left_out = {"unanswered": self.unanswered, "unknown_predictions": self.unknown} if self.partial else {}
        return {
            "rule": self.rule,
            "overall": self.overall,
            "interval": list(self.interval()),
            "interval_over": "images" if self.images else "questions",
            "per_answer_type": self.per_answer_type,
            "per_question_type": self.per_question_type,
            "questions": len(self.questions),
            "questions_with_too_few_answers_for_100": self.capped,
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
    given = _Known(entries.predicted(predictions))
    asked = None if questions is None else _Known(dict.fromkeys(entries.asked(questions), ""))
    score, judge = VqaScore(rule), RULES[rule]
    seen: set[Id] = set()
    lone, left_out = 0, _LeftOut()
    for question, answers, besides, record in entries.annotated(annotations):
        if question in seen:
            raise UserError(f"question {question} is annotated more than once", where=ANNOTATIONS)
        seen.add(question)
        prediction = given.take(question)
        if asked is not None and asked.take(question) is None:
            left_out.unasked.append(question)
        elif prediction is None:
            left_out.unpredicted.append(question)
        else:
            if besides is not None:
                besides = _settled(besides, question, without_ids)
            score.add(question, judge(prediction, answers, besides), record)
            score.capped += len(answers) <= ENOUGH
            lone += len(answers) == 1
    left_out.unannotated = asked.rest() if asked else []
    left_out.unknown = given.rest()
    left_out.judge(len(seen), partial, bool(score.marks))
    if lone == len(score.marks):
        raise UserError(
            "each question has one answer, and a rule that leaves one out gives every prediction 0",
            where=ANNOTATIONS,
            fix="judge a run with evaluate.metric: exact-match where there is one answer a question (GQA)",
        )
    score.unanswered = len(left_out.unasked) + len(left_out.unpredicted) + len(left_out.unannotated)
    score.unknown = len(left_out.unknown)
    score.settle()
    return score


class _Known(Generic[V]):
    """What is known of questions by their ids, to be taken once each. 17 and "17" are one id."""

    def __init__(self, values: dict[Id, V]) -> None:
        self.values = values
        self.by_text: dict[str, Id] | None = None

    def take(self, question: Id) -> V | None:
        found = self.values.pop(question, None)
        if found is not None or not self.values:
            return found
        if self.by_text is None:
            self.by_text = {str(each): each for each in self.values}
        other = self.by_text.get(str(question))
        return None if other is None else self.values.pop(other, None)

    def rest(self) -> list[Id]:
        return list(self.values)


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
            (self.unannotated, QUESTIONS, "questions are not annotated"),
            (self.unasked, ANNOTATIONS, "annotated questions are not among the questions"),
            (self.unpredicted, PREDICTIONS, f"of {annotated:,} questions have no prediction"),
            (self.unknown, PREDICTIONS, "predictions are for questions that nothing asks"),
        )
        fix = "give all files of one split, or score the questions that they share with --partial"
        if not anything:
            fix = "give all files of one split"
        for missing, file, what in found:
            if missing and not (partial and anything):
                raise UserError(f"{len(missing):,} {what} (the first: {missing[0]})", where=file, fix=fix)


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
