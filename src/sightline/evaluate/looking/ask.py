"""Asks a model its questions in each condition and says whether it looks."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sightline.data.row import Row
from sightline.errors import UserError
from sightline.evaluate.answer import Answerer
from sightline.evaluate.looking import conditions as ways
from sightline.evaluate.looking.conditions import Condition
from sightline.evaluate.looking.counterfactual import Pair
from sightline.evaluate.looking.counterfactual import told as told_pairs
from sightline.evaluate.looking.paired import against
from sightline.evaluate.looking.verdict import RULE, Seen, verdict
from sightline.evaluate.marks import Mark, Marks, accuracy, mean
from sightline.evaluate.score import normalise

Tell = Callable[[int], None]
NOT_SHUFFLED = "not measured: too few different images to exchange them"
TRIED = 4  # questions that are asked without an image to see whether the model takes them


@dataclass(frozen=True, slots=True)
class Answered:
    """The questions in one condition; no marks where it could not be made."""

    description: str
    answers: list[str]
    marks: Marks | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """The evaluation with the right images, and what it is compared by."""

    rows: list[Row]
    answers: list[str]
    marks: Marks
    mark: Mark
    pairs: list[Pair]

    def only(self, places: Sequence[int]) -> Asked:
        """The questions at `places`, and the pairs that are among them."""
        number = {place: new for new, place in enumerate(places)}
        return Asked(
            [self.rows[place] for place in places],
            [self.answers[place] for place in places],
            [self.marks[place] for place in places],
            self.mark,
            [(number[one], number[two]) for one, two in self.pairs if one in number and two in number],
        )

    def clusters(self) -> list[str]:
        """What the questions of one image, or of one set of images, have in common."""
        return _clusters(self.rows)

    def compared(self, others: Sequence[float]) -> dict[str, Any]:
        """These marks against `others`, of the same questions answered otherwise."""
        return against(self.marks, others, self.clusters())


@dataclass(frozen=True, slots=True)
class Again:
    """The questions that were asked again, by their places, and the answers in each condition."""

    places: list[int]
    answered: dict[str, Answered]


def prepare(names: Sequence[str], rows: Sequence[Row], answerer: Answerer, seed: int) -> dict[str, Condition | None]:
    """The rows of each condition of `names`; None for one that these rows or this model do not allow."""
    encoder = answerer.built.encoder
    make: dict[str, Callable[[], Condition | None]] = {
        "blind": lambda: _blind(rows, answerer),
        "shuffled": lambda: ways.shuffled(rows, seed),
        "blurred": lambda: ways.blurred(rows),
        "noise": lambda: ways.noise(rows, encoder, seed),
    }
    if not any(row.images for row in rows):
        return dict.fromkeys(names)
    return {name: make[name]() for name in names}


def ask(
    made: dict[str, Condition | None], rows: Sequence[Row], mark: Mark, answerer: Answerer, tell: Tell
) -> dict[str, Answered]:
    """The answers to `rows` in each condition, and their marks."""
    found = {}
    for name, condition in made.items():
        if condition is None:
            found[name] = Answered(NOT_SHUFFLED if name == "shuffled" else "not measured: no question has an image", [])
            continue
        answers = answerer(condition.rows, tell)
        marks = [mark(given, row) for given, row in zip(answers, rows, strict=True)]
        found[name] = Answered(condition.description, answers, marks)
    return found


def sample(rows: Sequence[Row], most: int, seed: int) -> list[int]:
    """Places of at most `most` rows, in order; whole images, drawn by `seed`, where there are more."""
    if len(rows) <= most:
        return list(range(len(rows)))
    shown: dict[str, list[int]] = {}
    for place, cluster in enumerate(_clusters(rows)):
        shown.setdefault(cluster, []).append(place)
    drawn: list[int] = []
    for cluster in random.Random(seed).sample(list(shown), len(shown)):
        if len(drawn) + len(shown[cluster]) <= most:
            drawn += shown[cluster]
    return sorted(drawn) or list(range(most))


def looking(asked: Asked, again: Again, settled: float | None, *, partial: bool) -> dict[str, Any]:
    """What `evaluation.json` says of it: each condition beside the right image, counterfactual pairs, the verdict.

    Args:
        settled: see `Seen`.
        partial: whether only some of the data set's questions were asked.
    """
    some = asked.only(again.places)
    clusters = some.clusters()
    compared = {name: _compared(some, other, clusters) for name, other in again.answered.items()}
    pairs = told_pairs(asked.pairs, asked.marks, asked.answers)
    for name, other in again.answered.items():
        if some.pairs and other.marks is not None:
            pairs.setdefault("both_right_when", {})[name] = mean(_lesser(some.pairs, other.marks))
    seen = Seen(mean(some.marks), len(some.rows), _images(some.rows), compared.get("shuffled"), settled)
    facts = {"questions": seen.questions, "of": len(asked.rows), "images": seen.images, "accuracy": seen.accuracy}
    told = {"conditions": compared, "counterfactual": pairs, "partial": partial}
    return {"verdict": verdict(seen), "rule": RULE, **facts, **told}


def group_looking(asked: Asked, again: Again, places: Sequence[int], settled: float | None) -> dict[str, Any]:
    """The same for the questions at `places`: accuracy in each condition, the gain by the right image, the verdict."""
    group, inside = asked.only(places), set(places)
    numbers = [number for number, place in enumerate(again.places) if place in inside]
    some = asked.only([again.places[number] for number in numbers])
    few = {
        name: Answered(other.description, [other.answers[n] for n in numbers], [other.marks[n] for n in numbers])
        for name, other in again.answered.items()
        if other.marks is not None and numbers
    }
    line: dict[str, Any] = {name: mean(other.marks) for name, other in few.items() if other.marks is not None}
    shuffled = _compared(some, few["shuffled"], some.clusters()) if "shuffled" in few else None
    if shuffled is not None:
        line |= {key: shuffled[key] for key in ("difference", "difference_interval")}
    right = mean(some.marks) if numbers else mean(group.marks)
    line["verdict"] = verdict(Seen(right, len(numbers), _images(some.rows), shuffled, settled))
    pairs = told_pairs(group.pairs, group.marks, group.answers)
    pairs.pop("description")
    return line | {"questions": len(numbers), "counterfactual": pairs}


def _compared(asked: Asked, other: Answered, clusters: Sequence[str]) -> dict[str, Any]:
    if other.marks is None:
        return {"accuracy": None, "description": other.description}
    changed = sum(normalise(one) != normalise(two) for one, two in zip(asked.answers, other.answers, strict=True))
    return {
        **accuracy(other.marks),
        **against(asked.marks, other.marks, clusters),
        "changed": changed / len(asked.rows),
        "description": other.description,
    }


def _blind(rows: Sequence[Row], answerer: Answerer) -> Condition:
    """The questions alone where the model takes them, else plain images."""
    bare, with_image = ways.no_image(rows), [place for place, row in enumerate(rows) if row.images]
    try:
        answerer([bare.rows[place] for place in with_image[:TRIED]])
    # A processor or a model that must have an image says so in its own way; that it fails is the answer.
    except (UserError, ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError) as error:
        plain = ways.mean_colour(rows, answerer.built.encoder)
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        return Condition(f"{plain.description} (without an image the model takes no question: {first})", plain.rows)
    return bare


def _clusters(rows: Sequence[Row]) -> list[str]:
    return [" ".join(image.key for image in row.images) or str(row.where) for row in rows]


def _lesser(pairs: Sequence[Pair], marks: Sequence[float]) -> list[float]:
    return [min(marks[first], marks[second]) for first, second in pairs]


def _images(rows: Sequence[Row]) -> int:
    return len({image.key for row in rows for image in row.images})
