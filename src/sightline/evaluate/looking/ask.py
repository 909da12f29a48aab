"""Asks a model its questions in each condition and says whether it looks."""

from __future__ import annotations

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

    def clusters(self) -> list[str]:
        """What the questions of one image, or of one set of images, have in common."""
        return [" ".join(image.key for image in row.images) or str(row.where) for row in self.rows]


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


def ask(made: dict[str, Condition | None], asked: Asked, answerer: Answerer, tell: Tell) -> dict[str, Answered]:
    """The answers in each condition and their marks."""
    found = {}
    for name, condition in made.items():
        if condition is None:
            found[name] = Answered(NOT_SHUFFLED if name == "shuffled" else "not measured: no question has an image", [])
            continue
        answers = answerer(condition.rows, tell)
        marks = [asked.mark(given, row) for given, row in zip(answers, asked.rows, strict=True)]
        found[name] = Answered(condition.description, answers, marks)
    return found


def looking(asked: Asked, answered: dict[str, Answered], settled: float | None, *, partial: bool) -> dict[str, Any]:
    """What `evaluation.json` says of it: each condition beside the right image, counterfactual pairs, the verdict.

    Args:
        settled: see `Seen`.
        partial: whether only some of the questions were asked.
    """
    clusters = asked.clusters()
    compared = {name: _compared(asked, other, clusters) for name, other in answered.items()}
    pairs = told_pairs(asked.pairs, asked.marks, asked.answers)
    for name, other in answered.items():
        if asked.pairs and other.marks is not None:
            pairs.setdefault("both_right_when", {})[name] = mean(_lesser(asked.pairs, other.marks))
    seen = Seen(mean(asked.marks), len(asked.rows), _images(asked.rows), compared.get("shuffled"), settled)
    facts = {"questions": len(asked.rows), "images": seen.images, "partial": partial}
    return {"verdict": verdict(seen), "rule": RULE, **facts, "conditions": compared, "counterfactual": pairs}


def group_looking(
    asked: Asked, answered: dict[str, Answered], places: Sequence[int], settled: float | None
) -> dict[str, Any]:
    """The same for the questions at `places`: accuracy in each condition, the gain by the right image, the verdict."""
    inside = set(places)
    number = {place: new for new, place in enumerate(places)}
    some = Asked(
        [asked.rows[place] for place in places],
        [asked.answers[place] for place in places],
        [asked.marks[place] for place in places],
        asked.mark,
        [(number[one], number[two]) for one, two in asked.pairs if one in inside and two in inside],
    )
    few = {
        name: Answered(other.description, [other.answers[p] for p in places], [other.marks[p] for p in places])
        for name, other in answered.items()
        if other.marks is not None
    }
    line: dict[str, Any] = {name: mean(other.marks) for name, other in few.items() if other.marks is not None}
    shuffled = _compared(some, few["shuffled"], some.clusters()) if "shuffled" in few else None
    if shuffled is not None:
        line |= {key: shuffled[key] for key in ("difference", "difference_interval")}
    line["verdict"] = verdict(Seen(mean(some.marks), len(places), _images(some.rows), shuffled, settled))
    pairs = told_pairs(some.pairs, some.marks, some.answers)
    pairs.pop("description")
    return line | {"counterfactual": pairs}


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


def _lesser(pairs: Sequence[Pair], marks: Sequence[float]) -> list[float]:
    return [min(marks[first], marks[second]) for first, second in pairs]


def _images(rows: Sequence[Row]) -> int:
    return len({image.key for row in rows for image in row.images})
