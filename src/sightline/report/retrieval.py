"""Retrieval between images and texts: read from `evaluation.json`, as values and in words. Fractions, not percent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightline.report.files import fraction, integer, mapping, read_json, real, text
from sightline.report.format import percent, whole

Interval = tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Share:
    """One bar: how often something was right, and how often it would be by chance."""

    name: str
    value: float
    interval: Interval
    chance: float | None


@dataclass(frozen=True, slots=True)
class Direction:
    """Queries of one kind among candidates of the other; `shares` by how far down the list one looks, 1 first."""

    name: str
    queries: int | None
    candidates: int | None
    shares: tuple[Share, ...]
    median_rank: float | None


@dataclass(frozen=True, slots=True)
class Retrieval:
    """One evaluation over pairs. `after` is the stage that it followed, empty at the end of the run."""

    after: str
    data: str
    partial: bool
    rerank: int | None
    to_text: Direction
    to_image: Direction
    matching: tuple[Share, ...]  # of right pairs, of the hardest wrong ones
    own_nats: float | None  # of a caption's token, given its own image...
    wrong_nats: float | None  # ...and given the most alike of the wrong ones

    @property
    def beats_chance(self) -> bool:
        """Whether both ways the lower end of the 95 % interval is above chance, at the first place."""
        firsts = [direction.shares[0] for direction in (self.to_text, self.to_image)]
        return all((f.interval[0] if f.interval else f.value) > (f.chance or 0.0) for f in firsts)

    @property
    def numbers(self) -> str:
        """The first places in words."""
        to_text, to_image = self.to_text.shares[0], self.to_image.shares[0]
        told = f"{percent(to_text.value)} of {whole(self.to_text.queries)} images find their text first, "
        told += f"{percent(to_image.value)} of {whole(self.to_image.queries)} texts their image"
        return told + (f"; by chance {self.chance}." if self.chance else ".")

    @property
    def chance(self) -> str:
        """At the first place, in words: one number where both ways have the same."""
        both = [direction.shares[0].chance for direction in (self.to_text, self.to_image)]
        return " and ".join(dict.fromkeys(percent(chance) for chance in both if chance is not None))


def retrievals(folder: Path, notes: list[str]) -> tuple[Retrieval, ...]:
    """The run's evaluations over pairs: at its end, then after stages by name."""
    found = [_read(folder / "evaluation.json", "", notes)]
    for path in sorted(folder.glob("after-*/evaluation.json")):
        found.append(_read(path, path.parent.name.removeprefix("after-"), notes))
    return tuple(one for one in found if one is not None)


def _read(path: Path, after: str, notes: list[str]) -> Retrieval | None:
    seen = read_json(path, dict, notes if after else [])  # the run's own is read once more, and its faults told there
    if seen.get("metric") != "retrieval":
        return None
    ways = (
        _direction("Image to text", mapping(seen.get("image_to_text"))),
        _direction("Text to image", mapping(seen.get("text_to_image"))),
    )
    if not all(way.shares for way in ways):
        notes.append(f"{path.parent.name if after else 'evaluation.json'} holds no recall and is left out.")
        return None
    matched, nats = mapping(seen.get("matching")), mapping(seen.get("caption_nats_per_token"))
    pairs = (("Right pairs", "right_pairs"), ("Hardest wrong pairs", "hardest_wrong_pairs"))
    chance = fraction(matched.get("chance"))
    shares = [_share(name, mapping(matched.get(key)), chance) for name, key in pairs]
    return Retrieval(
        after=after,
        data=text(seen.get("data")),
        partial=seen.get("partial") is True,
        rerank=integer(seen.get("rerank")),
        to_text=ways[0],
        to_image=ways[1],
        matching=tuple(share for share in shares if share is not None),
        own_nats=real(nats.get("own_image")),
        wrong_nats=real(nats.get("hardest_wrong_image")),
    )


def _direction(name: str, seen: Mapping[str, Any]) -> Direction:
    recall, interval, chance = (mapping(seen.get(key)) for key in ("recall", "interval", "chance"))
    shares = []
    for k in sorted((key for key in recall if key.isdigit()), key=int):
        told = {"accuracy": recall[k], "interval": interval.get(k)}
        share = _share(f"{name}, top {k}", told, fraction(chance.get(k)))
        shares += [share] if share is not None else []
    return Direction(
        name,
        integer(seen.get("queries")),
        integer(seen.get("candidates")),
        tuple(shares),
        real(seen.get("median_rank")),
    )


def _share(name: str, seen: Mapping[str, Any], chance: float | None) -> Share | None:
    if (value := fraction(seen.get("accuracy"))) is None:
        return None
    return Share(name, value, interval(seen.get("interval")), chance)


def interval(ends: Any) -> Interval:
    """Two fractions, or None."""
    low, high = (fraction(ends[0]), fraction(ends[1])) if isinstance(ends, list) and len(ends) == 2 else (None, None)
    return (low, high) if low is not None and high is not None else None
