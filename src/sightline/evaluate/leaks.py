"""Leaks: evaluation images that were also trained on, by file, bytes, pixels, number, or look.

Nothing is refused: what is found is counted, listed with both places, and said loudly.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sightline.atomic import write_text
from sightline.data.row import ImageRef, Row, Where
from sightline.evaluate.fingerprint import ALIKE, BITS, Fingerprint, fingerprints, words

Kind = Literal["same file", "same bytes", "same pixels", "same number", "near duplicate"]
RULE = (
    "An evaluation image counts as trained on where a training image is the same file, has the same bytes or the same "
    "pixels, bears the same COCO number, bears the same image_id and looks alike (90 of 256 bits), or is a near "
    f"duplicate: its perceptual hash differs in {ALIKE} of {BITS} bits or fewer. Drawings (over 70 % of neighbouring "
    "pixels the same) look alike to any such hash, so they are compared by their pixels; images of one colour are left "
    "out."
)
LISTED = 100  # in evaluation.json; leaks.jsonl has all
ALIKE_BY_NUMBER = 90  # bits: with an equal number, a tenth may be cut off; different photos differ in 98 or more
LOW = 16  # of the 64 lowest frequencies' bits may differ, before the others are looked at: copies differ in 12 or fewer
BLOCK = 1 << 23  # comparisons at a time
COCO = re.compile(r"(?:COCO_(?:train|val|test)\d{4}_(\d{12})(?:\.\w+)?|(\d{12})\.jpe?g)$")

Tell = Callable[[int], None]


@dataclass(slots=True)
class _Image:
    """A distinct image: where it is first shown, its COCO number and its image_id."""

    ref: ImageRef
    where: Where
    coco: str | None = None
    number: str | None = None
    questions: int = 0
    print: Fingerprint | None = None


@dataclass(frozen=True, slots=True)
class Leak:
    """An evaluation image and the training image that it is. `bits`: how many of 256 differ, of a near duplicate."""

    kind: Kind
    evaluation: _Image
    training: _Image
    bits: int | None = None

    def facts(self) -> dict[str, Any]:
        """As `leaks.jsonl` has it."""
        told: dict[str, Any] = {"kind": self.kind} | ({"bits": self.bits} if self.bits is not None else {})
        for name, image in (("evaluation", self.evaluation), ("training", self.training)):
            told[name] = {"row": str(image.where), "image": image.ref.key}
        return told | {"questions": self.evaluation.questions}


@dataclass(frozen=True, slots=True)
class Leaks:
    """What was compared and found. `keys`: of the evaluation images that were trained on."""

    facts: dict[str, Any]
    found: tuple[Leak, ...] = ()
    keys: frozenset[str] = field(default=frozenset())

    def leaked(self, row: Row) -> bool:
        """Whether an image of `row` was trained on."""
        return any(image.key in self.keys for image in row.images)


def count_images(*data: Iterable[Row]) -> int:
    """How many images `find_leaks` will look at."""
    return len({image.key for rows in data for row in rows for image in row.images})


def find_leaks(train_rows: Sequence[Row], rows: Sequence[Row], tell: Tell = lambda more: None) -> Leaks:
    """The images of `rows` that are also among those of `train_rows`.

    Args:
        tell: told how many more images were looked at.
    """
    trained, asked = _distinct(train_rows), _distinct(rows)
    every = {key: (image.ref, image.where) for key, image in (*trained.items(), *asked.items())}
    prints = fingerprints(list(every.values()), tell) if trained and asked else {}
    for image in (*trained.values(), *asked.values()):
        image.print = prints.get(image.ref.key)
    found = _by_identity(trained, asked)
    left = [image for key, image in asked.items() if key not in found]
    found |= {leak.evaluation.ref.key: leak for leak in _by_look(list(trained.values()), left)}
    ordered = tuple(found[key] for key in asked if key in found)
    facts = {
        "training_images": len(trained),
        "evaluation_images": len(asked),
        "found": len(ordered),
        "questions": sum(any(image.key in found for image in row.images) for row in rows),
        "kinds": dict(Counter(leak.kind for leak in ordered)),
        "unreadable": sum(each is None for each in prints.values()),
        "flat": sum(each is not None and each.looks != "detailed" for each in prints.values()),
        "listed": [leak.facts() for leak in ordered[:LISTED]],
        "rule": RULE,
    }
    return Leaks(facts, ordered, frozenset(found))


def write_leaks(out: Path, found: Sequence[Leak]) -> None:
    """`leaks.jsonl`, one line an image; no file where there is none."""
    path = out / "leaks.jsonl"
    if found:
        write_text(path, "".join(json.dumps(leak.facts(), ensure_ascii=False) + "\n" for leak in found))
    else:
        path.unlink(missing_ok=True)


def _distinct(rows: Iterable[Row]) -> dict[str, _Image]:
    images: dict[str, _Image] = {}
    for row in rows:
        for ref in row.images:
            image = images.get(ref.key)
            if image is None:
                found = COCO.search(str(ref.path or ref.key))
                coco = next(filter(None, found.groups()), None) if found else None
                number = row.fields.get("image_id") if len(row.images) == 1 else None
                image = images[ref.key] = _Image(ref, row.where, coco, number)
            image.questions += 1
    return images


def _by_identity(trained: dict[str, _Image], asked: dict[str, _Image]) -> dict[str, Leak]:
    """Key -> leak, by the surest sign that there is."""
    content: dict[bytes, _Image] = {}
    pixels: dict[bytes, _Image] = {}
    coco: dict[str, _Image] = {}
    numbers: dict[str, _Image] = {}
    for image in trained.values():
        if image.print is not None and image.print.looks != "plain":
            content.setdefault(image.print.content, image)
            pixels.setdefault(image.print.pixels, image)
        for table, name in ((coco, image.coco), (numbers, image.number)):
            if name is not None:
                table.setdefault(name, image)
    found: dict[str, Leak] = {}
    for key, image in asked.items():
        seen = image.print
        if key in trained:
            found[key] = Leak("same file", image, trained[key])
        elif seen is not None and seen.content in content:
            found[key] = Leak("same bytes", image, content[seen.content])
        elif seen is not None and seen.pixels in pixels:
            found[key] = Leak("same pixels", image, pixels[seen.pixels])
        elif image.coco in coco:
            found[key] = Leak("same number", image, coco[str(image.coco)])
        elif image.number in numbers and _look_alike(image, numbers[str(image.number)]):
            found[key] = Leak("same number", image, numbers[str(image.number)])
    return found


def _look_alike(one: _Image, other: _Image) -> bool:
    """Whether two images of one image_id may be one picture: many data sets number their splits from 0 again."""
    if one.print is None or other.print is None or {one.print.looks, other.print.looks} != {"detailed"}:
        return False
    first, second = words([one.print, other.print])
    return int(_ones(first ^ second).sum()) <= ALIKE_BY_NUMBER


def _by_look(trained: list[_Image], asked: list[_Image]) -> list[Leak]:
    """The nearest training image of each evaluation image, where it is near enough."""
    trained, asked = _detailed(trained), _detailed(asked)
    if not trained or not asked:
        return []
    known = words(image.print for image in trained if image.print)
    wanted = words(image.print for image in asked if image.print)
    found = []
    step = max(1, BLOCK // len(known))
    for start in range(0, len(wanted), step):
        some = wanted[start : start + step]
        near = _ones(some[:, None, 0] ^ known[None, :, 0]) <= LOW
        places, others = np.nonzero(near)
        bits = _ones(some[places] ^ known[others]).sum(1)
        best: dict[int, tuple[int, int]] = {}
        for place, other, apart in zip(places.tolist(), others.tolist(), bits.tolist(), strict=True):
            if apart <= ALIKE and (place not in best or apart < best[place][0]):
                best[place] = (apart, other)
        for place, (apart, other) in best.items():
            found.append(Leak("near duplicate", asked[start + place], trained[other], apart))
    return found


def _detailed(images: list[_Image]) -> list[_Image]:
    return [image for image in images if image.print is not None and image.print.looks == "detailed"]


def _ones(values: NDArray[np.uint64]) -> NDArray[np.integer[Any]]:
    """How many bits of each value are set."""
    if hasattr(np, "bitwise_count"):  # numpy 2
        return np.bitwise_count(values)
    halves = np.ascontiguousarray(values)[..., None].view(np.uint8)
    return np.unpackbits(halves, axis=-1).sum(-1)
