"""Whether the model looks, and what leaked, as `evaluation.json` says it. Fractions, not percent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sightline.report.files import fraction, integer, items, mapping, real, text
from sightline.report.format import percent
from sightline.report.retrieval import Interval, interval

LOOKS, DOES_NOT, CANNOT_TELL = "looks", "does not look", "cannot tell"
NAMES = {  # in the order of the page: what tells least of the picture comes last
    "blurred": "Blurred",
    "shuffled": "Another picture",
    "noise": "Noise",
    "blind": "No picture",
    "text_only": "Words alone",
    "majority": "Always",
}


@dataclass(frozen=True, slots=True)
class Condition:
    """The same questions without the right picture. `loss`: what the right one adds, and its 95 % interval."""

    name: str
    accuracy: float
    interval: Interval
    loss: float | None
    loss_interval: tuple[float, float] | None
    changed: float | None
    p: float | None
    description: str
    quoted: str = ""


@dataclass(frozen=True, slots=True)
class Pairs:
    """Counterfactual pairs. `when`: the share that is right in each condition, by name."""

    count: int
    both_right: float
    interval: Interval
    if_independent: float | None
    same_answer: float | None
    when: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Looking:
    """The verdict (`says`, `why`), the rule it goes by, and what it rests on."""

    says: str
    why: str
    rule: str
    conditions: tuple[Condition, ...]
    pairs: Pairs | None
    accuracy: float | None  # with the right pictures, of the questions that were asked again
    questions: int | None
    of: int | None
    partial: bool


@dataclass(frozen=True, slots=True)
class LeakSeen:
    """One evaluation image that was trained on, and both its places."""

    kind: str
    bits: int | None
    evaluation: str
    evaluation_image: str
    training: str
    training_image: str


@dataclass(frozen=True, slots=True)
class Leaks:
    """The leak check. `without`: the score on questions whose images were not trained on."""

    training_images: int
    evaluation_images: int
    found: int
    questions: int
    kinds: Mapping[str, int]
    listed: tuple[LeakSeen, ...]
    without: float | None
    without_interval: Interval
    unreadable: int
    not_compared: tuple[str, ...]
    rule: str
    partial: bool


def looking(evaluation: Mapping[str, Any]) -> Looking | None:
    """Of `evaluation.json`; None where it does not say."""
    seen = mapping(evaluation.get("looking"))
    judged = mapping(seen.get("verdict"))
    if (says := text(judged.get("says"))) not in (LOOKS, DOES_NOT, CANNOT_TELL):
        return None
    told = {**mapping(seen.get("conditions")), **mapping(evaluation.get("baselines"))}
    conditions = [_condition(key, mapping(told[key])) for key in NAMES if key in told]
    return Looking(
        says=says,
        why=text(judged.get("why")),
        rule=text(seen.get("rule")),
        conditions=tuple(each for each in conditions if each is not None),
        pairs=_pairs(mapping(seen.get("counterfactual"))),
        accuracy=fraction(seen.get("accuracy")),
        questions=integer(seen.get("questions")),
        of=integer(seen.get("of")),
        partial=seen.get("partial") is True,
    )


def says(group: Mapping[str, Any]) -> str:
    """The verdict on one type of question; empty where there is none."""
    return text(mapping(mapping(group.get("looking")).get("verdict")).get("says"))


def leaks(evaluation: Mapping[str, Any]) -> Leaks | None:
    """Of `evaluation.json`; None where nothing was compared."""
    seen = mapping(evaluation.get("leaks"))
    trained, asked = integer(seen.get("training_images")), integer(seen.get("evaluation_images"))
    if not trained or not asked:
        return None
    without = mapping(seen.get("accuracy_without"))
    names = seen.get("not_compared")
    return Leaks(
        training_images=trained,
        evaluation_images=asked,
        found=integer(seen.get("found")) or 0,
        questions=integer(seen.get("questions")) or 0,
        kinds={kind: number for kind, count in mapping(seen.get("kinds")).items() if (number := integer(count))},
        listed=tuple(_leak(each) for each in items(seen.get("listed"))),
        without=fraction(without.get("accuracy")),
        without_interval=interval(without.get("interval")),
        unreadable=integer(seen.get("unreadable")) or 0,
        not_compared=tuple(text(name) for name in names) if isinstance(names, list) else (),
        rule=text(seen.get("rule")),
        partial=seen.get("partial") is True,
    )


def points(share: float | None) -> str:
    """A difference of shares in points of a hundred, with its sign: +39.4."""
    return "\N{EN DASH}" if share is None else f"{100 * share:+.1f}".replace("-", "\N{MINUS SIGN}")


def _condition(key: str, seen: Mapping[str, Any]) -> Condition | None:
    if (accuracy := fraction(seen.get("accuracy"))) is None:
        return None
    ends = seen.get("difference_interval")
    low, high = (real(ends[0]), real(ends[1])) if isinstance(ends, list) and len(ends) == 2 else (None, None)
    described = text(seen.get("description"))
    return Condition(
        name=NAMES[key],
        accuracy=accuracy,
        interval=interval(seen.get("interval")),
        loss=real(seen.get("difference")),
        loss_interval=(low, high) if low is not None and high is not None else None,
        changed=fraction(seen.get("changed")),
        p=fraction(seen.get("p")),
        description=f"{percent(accuracy)}: {described}" if described else "",
        quoted=text(seen.get("answer")),
    )


def _pairs(seen: Mapping[str, Any]) -> Pairs | None:
    count, both = integer(seen.get("pairs")), fraction(seen.get("both_right"))
    if not count or both is None:
        return None
    shares = mapping(seen.get("both_right_when"))
    when = {name: share for key, name in NAMES.items() if (share := fraction(shares.get(key))) is not None}
    independent, same = fraction(seen.get("if_independent")), fraction(seen.get("same_answer"))
    return Pairs(count, both, interval(seen.get("interval")), independent, same, when)


def _leak(seen: Mapping[str, Any]) -> LeakSeen:
    asked, trained = mapping(seen.get("evaluation")), mapping(seen.get("training"))
    return LeakSeen(
        kind=text(seen.get("kind")),
        bits=integer(seen.get("bits")),
        evaluation=text(asked.get("row")),
        evaluation_image=text(asked.get("image")),
        training=text(trained.get("row")),
        training_image=text(trained.get("image")),
    )
