"""Rows that are nearly equal: a bounded sample of images, texts or rows of numbers, and what they are compared by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sightline.attach.clumps import cliques, clumps, standardized
from sightline.attach.likeness import SIDE, alike, prints_of, small_images, text_prints
from sightline.attach.onlookers.repeats import counted
from sightline.attach.views import thumbnails, views
from sightline.guard.evidence import NearRowsSeen
from sightline.guard.evidence.rows import ViewsSeen
from sightline.guard.probes.call import COLOURS, Call

TRAINED, EVALUATED = 1024, 512  # rows kept of either kind: half a second at the end compares texts, less images
NUMBERS = 3  # times as many rows of numbers: of groups, a part says little
LONG, CHUNK = 512, 128  # tokens of a text that are compared; texts at once
PIXELS = SIDE * SIDE  # of an image's print, behind its bits
BATCHES = 64  # of either kind whose images are looked at: half a millisecond a small one, 10 ms a large one


@dataclass(slots=True)
class Sample:
    """Distinct rows by their hashes; those with the smallest hashes are kept, a sample that no order can bend."""

    most: int
    rows: dict[bytes, tuple[Tensor, int]] = field(default_factory=dict)
    batches: dict[int, list[bytes]] = field(default_factory=dict)
    looked: int = 0
    left_out: bool = False

    def add(self, hashes: list[bytes], likes: Tensor) -> None:
        """Take the rows of one batch."""
        number = len(self.batches)
        self.batches[number] = hashes
        for name, like in zip(hashes, likes, strict=True):
            self.rows.setdefault(name, (like, number))
        if len(self.rows) > 2 * self.most:
            self.cut()

    def cut(self) -> None:
        """Keep no more than `most`."""
        for name in sorted(self.rows)[self.most :]:
            self.left_out = True
            del self.rows[name]


class NearRows:
    """Keeps the two samples, and compares them once."""

    def __init__(self) -> None:
        self._trained, self._evaluated = Sample(TRAINED), Sample(EVALUATED)
        self._kind: str | None = None
        self._width: int | None = None  # of a row of numbers or of an image's print
        self.classes = 1  # numbers that the model gives for a row

    def prints(self, call: Call, *, training: bool) -> Tensor | None:
        """(B, bits and bytes) of a batch of images, int8 on its device; None for others, and after enough of them."""
        sample = self._trained if training else self._evaluated
        pixels = call.tensor("pixel_values")
        if pixels is None or pixels.dim() != 4 or pixels.shape[1] not in COLOURS or sample.looked >= BATCHES:
            return None
        if (ids := call.tensor("input_ids")) is not None and ids is not pixels:
            return None  # a question about an image may well be asked of another
        sample.looked += 1
        with torch.no_grad():
            small = small_images(pixels)
            return torch.cat([prints_of(small).to(torch.int8), thumbnails(small)], dim=1)

    def trained(self, hashes: list[bytes], likes: Tensor | None) -> None:
        """A training batch: `likes` are prints of images (int8), token ids, or numbers."""
        self._take(self._trained, hashes, likes)

    def evaluated(self, hashes: list[bytes], likes: Tensor | None) -> None:
        """An evaluation batch, likewise."""
        self._take(self._evaluated, hashes, likes)

    def _take(self, sample: Sample, hashes: list[bytes], likes: Tensor | None) -> None:
        if likes is None or likes.dim() != 2 or len(likes) != len(hashes):
            return
        kind = "numbers" if likes.is_floating_point() else "images" if likes.dtype is torch.int8 else "texts"
        width = likes.shape[1]
        if self._kind in (None, kind) and (kind == "texts" or self._width in (None, width)):
            if self._kind is None and kind == "numbers":
                self._trained.most, self._evaluated.most = NUMBERS * TRAINED, NUMBERS * EVALUATED
            self._kind, self._width = kind, width
            sample.add(hashes, likes[:, :LONG].to(torch.int32) if kind == "texts" else likes)

    def seen(self, known: Collection[bytes]) -> NearRowsSeen | None:
        """Compare. `known`: the hashes of all rows that were trained on."""
        self._trained.cut()
        self._evaluated.cut()
        trained, evaluated = self._trained.rows, self._evaluated.rows
        whole = not (self._trained.left_out or self._evaluated.left_out)
        if self._kind in (None, "numbers") or not trained or not evaluated:
            return None
        own, other = (self._table([like for like, _ in part.values()]) for part in (trained, evaluated))
        found = alike(other, own).any(dim=1).tolist()
        near = {name for name, is_near in zip(evaluated, found, strict=True) if is_near and name not in known}
        batches = self._evaluated.batches
        fresh = evaluated.keys() - near - set(known)
        mixed = [name for name in near if not fresh.isdisjoint(batches[evaluated[name][1]])]
        pairs = sum(len(part) * (len(part) - 1) // 2 for part in (own, other))
        twins = sum(int(alike(part, part).triu(1).sum()) for part in (own, other))
        sizes = _groups(own, other[[name not in trained for name in evaluated]]) if whole and near else ()
        return NearRowsSeen(self._kind, len(own), len(other), len(near), len(mixed), pairs, twins, sizes, self.classes)

    def views(self, known: Collection[bytes]) -> ViewsSeen | None:
        """Of images, which are views of one; after `seen`."""
        pixels = self._both(known) if self._kind == "images" else None
        return None if pixels is None else self._grouped(known, *views(pixels))

    def clumps(self, known: Collection[bytes]) -> ViewsSeen | None:
        """Of images as they are, or of other rows of numbers, which were made of one; after `seen`."""
        rows = self._both(known) if self._kind in ("images", "numbers") else None
        if rows is None:
            return None
        near = clumps(rows.float() if self._kind == "images" else standardized(rows))
        return self._grouped(known, near, 0) if cliques(near, _components(near)) else None

    def _both(self, known: Collection[bytes]) -> Tensor | None:
        """Rows that were trained on, and behind them those evaluated that were not; None where there are none."""
        trained, evaluated = self._trained.rows, self._evaluated.rows
        names = [*trained, *(name for name in evaluated if name not in known)]
        if len(trained) < 2 or len(names) == len(trained):
            return None
        rows = torch.stack([(trained.get(name) or evaluated[name])[0] for name in names])
        return rows[:, -PIXELS:] if self._kind == "images" else rows

    def _grouped(self, known: Collection[bytes], near: Tensor, doubtful: int) -> ViewsSeen:
        """Who is near to whom among the rows of `_both`."""
        evaluated, own = self._evaluated.rows, len(self._trained.rows)
        group = _components(near).tolist()
        groups = counted(Counter(group[:own]), Counter(group[own:]))
        assert groups is not None
        of_training = set(group[:own])
        return ViewsSeen(
            evaluated=len(evaluated),
            near=sum(place in of_training for place in group[own:]),
            known=sum(name in known for name in evaluated),
            alike=int(near.triu(1).sum()),
            doubtful=doubtful // 2,
            groups=groups,
            classes=self.classes,
        )

    def _table(self, likes: list[Tensor]) -> Tensor:
        if self._kind == "images":
            return torch.stack(likes)[:, :-PIXELS].bool()
        rows = [_trimmed(ids) for ids in likes]
        chunks = (pad_sequence(rows[at : at + CHUNK], True, -1) for at in range(0, len(rows), CHUNK))
        return torch.cat([text_prints(chunk) for chunk in chunks])


def _groups(own: Tensor, other: Tensor) -> tuple[int, ...]:
    """How many groups of 1, 2, 3, ... rows there are, each near to another of its group."""
    rows = torch.cat([own, other])
    near = alike(rows, rows)
    return tuple(_components(near | near.T).bincount().bincount()[1:].tolist())


def _components(near: Tensor) -> Tensor:
    """(n,) the first row of the group to which each belongs."""
    near = near | torch.eye(len(near), dtype=torch.bool)
    group, before = torch.arange(len(near)), None
    while before is None or not torch.equal(group, before):
        before, group = group, torch.where(near, group, len(near)).amin(dim=1)
    return group


def _trimmed(ids: Tensor) -> Tensor:
    """A text without what repeats at its end: padding, whose mask may not be known."""
    other = (ids != ids[-1]).nonzero()
    return ids[: int(other[-1]) + 2] if len(other) else ids[:1]
