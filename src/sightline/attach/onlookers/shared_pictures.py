"""Rows of a picture and a text: which pictures have texts both in training and in an evaluation?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from torch import Tensor

from sightline.attach.onlookers.row_hashes import hashes, keys, parts_of
from sightline.guard.evidence.rows import SharedPicturesSeen

RICH = 256  # numbers of a picture, or of the features of its patches
KEPT = 20_000  # rows of either kind
LOOKED = 512  # pictures whose parts are kept


class SharedPictures:
    """The pictures of different rows, by their hashes."""

    def __init__(self) -> None:
        self._trained: dict[bytes, bytes] = {}  # row -> picture
        self._evaluated: dict[bytes, bytes] = {}
        self._parts: dict[bytes, tuple[int, ...]] = {}  # of pictures trained on

    def trained(self, rows: list[bytes], pictures: Tensor | None) -> None:
        """The rows of a training batch."""
        names = _keep(self._trained, rows, pictures)
        for place, name in enumerate(names):
            if len(self._parts) < LOOKED and name not in self._parts and pictures is not None:
                self._parts[name] = parts_of(pictures[place])

    def evaluated(self, rows: list[bytes], pictures: Tensor | None) -> None:
        """The rows of an evaluation batch."""
        _keep(self._evaluated, rows, pictures)

    def seen(self, known: Collection[bytes]) -> SharedPicturesSeen | None:
        """Compare. `known`: all rows that were trained on, which prove nothing here where they are evaluated."""
        ours = Counter(self._trained.values())
        others = Counter(picture for row, picture in self._evaluated.items() if row not in known)
        if not ours or not others:
            return None
        both = ours.keys() & others.keys()
        return SharedPicturesSeen(
            evaluated=others.total(),
            shared=sum(others[picture] for picture in both),
            alone=_sizes([times for picture, times in ours.items() if picture not in both]),
            both=_sizes([ours[picture] + others[picture] for picture in both]),
            left=_sizes([ours[picture] for picture in both]),
            keys=keys(list(self._parts.values())),
        )


def picture_place(inputs: list[Tensor]) -> int | None:
    """Which of the tensors that make a row is a picture, where the others are ids of texts."""
    rich = [place for place, value in enumerate(inputs) if value.is_floating_point()]
    if len(rich) != 1 or len(inputs) < 2:
        return None
    picture = inputs[rich[0]]  # a vector may well stand for a speaker or a user, who are on both sides as they should
    return rich[0] if picture.dim() > 2 and picture[0].numel() >= RICH else None


def _keep(kept: dict[bytes, bytes], rows: list[bytes], pictures: Tensor | None) -> list[bytes]:
    """The names of the pictures, if they are taken."""
    if pictures is None or len(kept) >= KEPT:
        return []
    names = hashes([pictures])
    kept.update(zip(rows, names, strict=True))
    return names


def _sizes(counts: list[int]) -> tuple[int, ...]:
    """How many of 1, 2, 3, ..."""
    found = Counter(counts)
    return tuple(found[size] for size in range(1, max(counts, default=0) + 1))
