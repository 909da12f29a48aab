"""How sure a model is: calibration of its answers, and perplexity. Read from `evaluation.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightline.report.files import fraction, integer, mapping, read_json, real, text
from sightline.report.retrieval import Interval, interval


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers about as sure as each other: how sure they are on average, and how many are right."""

    name: str
    answers: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """Fractions. `by_chance`: the error that a model would have whose every confidence is true."""

    error: float
    interval: Interval
    by_chance: float | None
    confidence: float | None
    accuracy: float | None
    bins: tuple[Bin, ...]

    @property
    def short(self) -> str:
        """Too sure, too unsure, or as sure as it may be; the interval decides."""
        low = self.interval[0] if self.interval else self.error
        if self.confidence is None or self.accuracy is None or low <= (self.by_chance or 0.0):
            return "as often right as it is sure, as far as so many answers tell"
        return "surer than it may be" if self.confidence > self.accuracy else "less sure than it may be"


@dataclass(frozen=True, slots=True)
class Perplexity:
    """`other`: of the same words beside other images. `ends`: the 95 % interval. `groups`: by the first field."""

    value: float
    ends: tuple[float, float] | None
    nats: float | None
    tokens: int | None
    texts: int | None
    unit: str
    data: str
    partial: bool
    other: float | None
    groups: tuple[tuple[str, float], ...]


def calibration(folder: Path) -> Calibration | None:
    """That of the run's own evaluation."""
    seen = mapping(read_json(folder / "evaluation.json", dict, []).get("calibration"))
    if (error := fraction(seen.get("ece"))) is None:
        return None
    bins = (_bin(mapping(each)) for each in seen.get("bins") or ())
    return Calibration(
        error=error,
        interval=interval(seen.get("interval")),
        by_chance=fraction(seen.get("expected_by_chance")),
        confidence=fraction(seen.get("confidence")),
        accuracy=fraction(seen.get("accuracy")),
        bins=tuple(each for each in bins if each is not None),
    )


def perplexity(folder: Path) -> Perplexity | None:
    """Where the run's own evaluation is perplexity."""
    seen = read_json(folder / "evaluation.json", dict, [])
    value = real(seen.get("perplexity"))
    if seen.get("metric") != "perplexity" or value is None:
        return None
    ends = [real(end) for end in seen.get("interval") or ()]
    table = mapping(next(iter(mapping(seen.get("by_field")).values()), {}))
    groups = ((name, real(mapping(group).get("perplexity"))) for name, group in table.items())
    low, high = ends if len(ends) == 2 else (None, None)
    return Perplexity(
        value=value,
        ends=(low, high) if low is not None and high is not None else None,
        nats=real(seen.get("nats")),
        tokens=integer(seen.get("tokens")),
        texts=integer(seen.get("questions")),
        unit=text(seen.get("unit")) or "texts",
        data=text(seen.get("data")),
        partial=seen.get("partial") is True,
        other=real(mapping(mapping(seen.get("baselines")).get("shuffled_images")).get("perplexity")),
        groups=tuple((name, value) for name, value in groups if value is not None),
    )


def _bin(seen: Mapping[str, Any]) -> Bin | None:
    low, high, answers = fraction(seen.get("low")), fraction(seen.get("high")), integer(seen.get("answers"))
    sure, right = fraction(seen.get("confidence")), fraction(seen.get("accuracy"))
    if low is None or high is None or sure is None or right is None or not answers:
        return None
    return Bin(f"{100 * low:.0f} to {100 * high:.0f}\u00a0% sure", answers, sure, right)
