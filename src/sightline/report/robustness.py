"""How the run breaks: `robustness.json` as values. Fractions, not percent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightline.report.files import fraction, integer, items, mapping, picture, read_json, real, text
from sightline.report.format import percent, plural
from sightline.report.retrieval import Interval, interval

TITLES = {
    "fgsm-linf": "One step (FGSM), every pixel bounded",
    "fgsm-l2": "One step (FGSM), the whole difference bounded",
    "pgd-linf": "Many steps (PGD), every pixel bounded",
    "pgd-l2": "Many steps (PGD), the whole difference bounded",
    "patch": "A patch",
}
WORDS = {"typos": "With typos", "case": "In capitals", "paraphrase": "Paraphrased"}
LIES = {"asserted": "Asserted in the question", "printed": "Printed into the picture"}
SHOWN = 24  # pictures


@dataclass(frozen=True, slots=True)
class Share:
    """An accuracy with its interval; `lost` against the same questions untouched."""

    value: float
    interval: Interval
    lost: float | None = None


@dataclass(frozen=True, slots=True)
class Point:
    """An attack at one bound: answers given files of 8 bits, given unrounded pixels, and given noise of the size."""

    epsilon: float
    files: Share
    floats: Share | None
    noise: Share | None
    loss: float | None
    clean_loss: float | None


@dataclass(frozen=True, slots=True)
class Curve:
    """An attack over its bounds."""

    name: str
    norm: str
    about: str
    points: tuple[Point, ...]

    @property
    def title(self) -> str:
        """In words."""
        return TITLES.get(self.name, self.name)

    def bound(self, epsilon: float) -> str:
        """A bound as the field writes it."""
        if self.norm == "linf":
            return f"{epsilon * 255:.3g}/255"
        return f"{epsilon:.3g}" if self.norm else percent(epsilon)


@dataclass(frozen=True, slots=True)
class Check:
    """A check of an attack: passed, failed, or not made (None)."""

    attack: str
    name: str
    passed: bool | None
    says: str


@dataclass(frozen=True, slots=True)
class Corruption:
    """A corruption's line of the heat map: a share for each severity."""

    name: str
    family: str
    mean: float | None
    severities: Mapping[str, Share]


@dataclass(frozen=True, slots=True)
class Lie:
    """A contradiction: right answers with it and without, and how often the false answer was given, both ways."""

    name: str
    questions: int
    share: Share
    control: Share | None
    followed: Share | None
    unasked: Share | None
    question: str
    false: str
    truth: str


@dataclass(frozen=True, slots=True)
class Fooled:
    """A picture before and after an attack that changed the answer."""

    attack: str
    bound: str
    clean: str
    attacked: str
    difference: str
    question: str
    before: str
    after: str
    truth: str


@dataclass(frozen=True, slots=True)
class Robustness:
    """`robustness.json`."""

    data: str
    questions: int | None
    of: int | None
    partial: bool
    clean: Share
    curves: tuple[Curve, ...]
    checks: tuple[Check, ...]
    corruptions: tuple[Corruption, ...]
    corrupted: float | None
    words: Mapping[str, Share]
    lies: tuple[Lie, ...]
    pictures: tuple[Fooled, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        """Checks that say: do not believe this curve."""
        return tuple(check for check in self.checks if check.passed is False)

    @property
    def severities(self) -> list[str]:
        """Columns of the heat map."""
        return sorted({each for line in self.corruptions for each in line.severities}, key=int)

    @property
    def worst(self) -> tuple[Curve, Point] | None:
        """The attack, and its point, that leaves the fewest right answers."""
        points = [(curve, point) for curve in self.curves for point in curve.points]
        return min(points, key=lambda one: one[1].files.value, default=None)


def read_robustness(folder: Path, notes: list[str]) -> Robustness | None:
    """`robustness.json` of a run directory; None where there is none to show."""
    seen = read_json(folder / "robustness.json", dict, notes)
    if not seen:
        return None
    if (clean := _share(seen.get("clean"))) is None:
        notes.append("robustness.json holds no accuracy of untouched pictures and is left out.")
        return None
    corruptions = mapping(seen.get("corruptions"))
    curves = tuple(curve for each in items(seen.get("attacks")) if (curve := _curve(each)).points)
    return Robustness(
        data=text(seen.get("data")),
        questions=integer(seen.get("questions")),
        of=integer(seen.get("of")),
        partial=seen.get("partial") is True,
        clean=clean,
        curves=curves,
        checks=tuple(_check(each) for each in items(seen.get("checks"))),
        corruptions=tuple(_corruption(name, mapping(each)) for name, each in mapping(corruptions.get("table")).items()),
        corrupted=fraction(corruptions.get("mean")),
        words={
            WORDS.get(name, name): share
            for name, each in mapping(seen.get("words")).items()
            if (share := _share(each)) is not None
        },
        lies=tuple(
            lie for name, each in mapping(seen.get("contradiction")).items() if (lie := _lie(name, mapping(each)))
        ),
        pictures=tuple(_fooled(each, curves) for each in items(seen.get("pictures"))[:SHOWN]),
    )


def _curve(seen: Mapping[str, Any]) -> Curve:
    points = []
    for each in items(seen.get("points")):
        epsilon, files = real(each.get("epsilon")), _share(each)
        if epsilon is not None and files is not None:
            shares = _share(each.get("floats")), _share(each.get("noise"))
            points.append(Point(epsilon, files, *shares, real(each.get("loss")), real(each.get("clean_loss"))))
    steps, restarts = integer(seen.get("steps")), integer(seen.get("restarts"))
    about = plural(steps, "step") if steps else ""
    about += f", {plural(restarts, 'start')}" if about and restarts and restarts > 1 else ""
    return Curve(text(seen.get("name")), text(seen.get("norm")), f"{about}. " if about else "", tuple(points))


def _check(seen: Mapping[str, Any]) -> Check:
    passed = seen.get("passed") if isinstance(seen.get("passed"), bool) else None
    return Check(text(seen.get("attack")), text(seen.get("check")).replace("-", " "), passed, text(seen.get("says")))


def _corruption(name: str, seen: Mapping[str, Any]) -> Corruption:
    shares = {key: _share(each) for key, each in mapping(seen.get("severities")).items() if key.isdigit()}
    kept = {key: share for key, share in shares.items() if share is not None}
    return Corruption(name.replace("-", " "), text(seen.get("family")), fraction(seen.get("accuracy")), kept)


def _lie(name: str, seen: Mapping[str, Any]) -> Lie | None:
    questions, share = integer(seen.get("questions")), _share(seen)
    if not questions or share is None:
        return None
    example = mapping(seen.get("example"))
    control, followed, unasked = (_share(seen.get(key)) for key in ("control", "followed", "followed_unasked"))
    question, false, truth = (text(example.get(key)) for key in ("question", "false", "truth"))
    return Lie(LIES.get(name, name), questions, share, control, followed, unasked, question, false, truth)


def _fooled(seen: Mapping[str, Any], curves: Sequence[Curve]) -> Fooled:
    name, epsilon = text(seen.get("attack")), real(seen.get("epsilon")) or 0.0
    curve = next((each for each in curves if each.name == name), Curve(name, "l2", "", ()))
    shown = (picture(seen.get(key)) for key in ("clean", "attacked", "difference"))
    told = (text(seen.get(key)) for key in ("question", "before", "after", "truth"))
    return Fooled(curve.title, curve.bound(epsilon), *shown, *told)


def _share(seen: Any) -> Share | None:
    told = mapping(seen)
    value = fraction(told.get("accuracy"))
    return None if value is None else Share(value, interval(told.get("interval")), real(told.get("lost")))
