"""Samples by what data sets hold of them: which of those that are evaluated were trained on, however they are shown?

Images that are augmented while they are trained on are never the same twice, and in an evaluation they are as they
were. What a loader's batch is made of is known by the places that it draws from.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import fields
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from sightline.attach.alive import living
from sightline.attach.feed import Feed
from sightline.attach.held import Samples
from sightline.attach.onlookers.onlooker import Recording
from sightline.attach.onlookers.row_inputs import wide_inputs
from sightline.attach.onlookers.shared_rows import SharedRows
from sightline.guard.evidence import SharedRowsSeen
from sightline.guard.evidence.rows import HeldRowsSeen
from sightline.guard.probes.call import Call
from sightline.guard.probes.draws import Copy
from sightline.guard.probes.fields import leaves

EVERY, SOME = 1 << 13, 64  # samples that are named of what was trained on, and of others
FED = 0.9  # of the training batches come from a loader: else the last one that gave a batch says nothing of the others


class HeldRows(SharedRows):
    """Compares as its base does, by other names of the rows."""

    shows: ClassVar = ("HeldRowsSeen",)
    used: ClassVar[weakref.WeakKeyDictionary[DataLoader[Any], tuple[int, int, bool]]] = weakref.WeakKeyDictionary()

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self._samples = Samples()
        self._given: tuple[weakref.ref[DataLoader[Any]], int, int] | None = None  # the batch of the last call
        self._wanted = self._fed = 0
        self._rounds, self._unfed = set[int](), 0  # steps at which it was judged; batches of that from no loader
        self._taught: DataLoader[Any] | None = None
        self._unread: list[DataLoader[Any]] | None = None  # when it was judged first
        self._spare = 0

    def close(self, *, broken: bool) -> None:
        """What belongs to the host is let go."""
        if Feed.over and not broken:
            self._spare = self._held_out()
        super().close(broken=broken)
        self._samples, self._taught, self._unread = Samples(), None, []

    def _rows_of(self, call: Call, *, training: bool) -> list[Tensor]:
        wide, feed = wide_inputs(call), Feed.last()
        self._wanted += training
        names = self._names(wide, feed, training=training)
        if training:
            self._fed += names is not None
            self._taught = feed.loader if names is not None and feed is not None else self._taught
        elif names is None:
            self._unfed += 1
        else:
            self._rounds.add(self.recorder.step)
            if self._unread is None and Feed.begun is not None:
                self._unread = [one for one in living(DataLoader) if not Feed.begun(one) and type(one) is not Copy]
        return [] if names is None else [names]

    def _names(self, wide: list[Tensor], feed: Feed | None, *, training: bool) -> Tensor | None:
        if feed is None or feed.samples is None or not wide or len(wide[0]) != len(feed.samples):
            return None
        if feed.epoch in feed.lengths and not training:
            return None  # its pass is over: what is asked now comes from elsewhere
        if not (is_of(wide[0], feed.batches) and self._fresh(feed, training=training)):
            return None
        pictures = any(value.dim() == 4 and value.is_floating_point() for value in wide)
        return self._samples.names(feed.loader.dataset, feed.samples, loose=pictures)

    def _held_out(self) -> int:
        """How many samples a loader has that were not trained on, and that nobody ever read."""
        if self._taught is None or self._unfed or Feed.begun is None:
            return 0
        known = self._few(self._taught, EVERY)
        for loader in self._unread or ():
            others = set[int]() if Feed.begun(loader) else self._few(loader, SOME)
            if known and others and known.isdisjoint(others):
                return len(loader.dataset)  # type: ignore[arg-type]
        return 0

    def _few(self, loader: DataLoader[Any], most: int) -> set[int]:
        size = len(loader.dataset) if hasattr(loader.dataset, "__len__") else 0
        places = list(range(0, size, max(1, size // most)))[:most] if size <= EVERY or most < EVERY else []
        names = self._samples.names(loader.dataset, places, loose=True) if places else None
        return set() if names is None else set(names[:, 0].tolist())

    def _fresh(self, feed: Feed, *, training: bool) -> bool:
        """Whether this batch was given for this call: what else the model is run on may have as many rows."""
        at = feed.epoch, feed.place
        if self.used.setdefault(feed.loader, (*at, training)) == (*at, not training):
            return False
        self.used[feed.loader] = (*at, training)
        known, self._given = self._given, (weakref.ref(feed.loader), *at)
        return known is None or known[0]() is not feed.loader or known[1:] != at

    def _post(self, call: Call, rows: list[Tensor], take: Callable[..., None], *, training: bool) -> None:
        self.recorder.mailbox.post(rows, lambda values: take(None, 0, values, None))

    def _tell(self, seen: SharedRowsSeen) -> None:
        if seen.trained and self._fed >= FED * self._wanted:
            base = {one.name: getattr(seen, one.name) for one in fields(seen)}
            self.recorder.offer(HeldRowsSeen(**base, rounds=len(self._rounds), spare=self._spare))


def is_of(value: Tensor, batches: tuple[Any, ...]) -> bool:
    """Whether an input is a tensor of one of these batches, as it was given or moved to another device."""
    if value.layout is not torch.strided:
        return False
    every = (one for batch in batches for one in leaves((batch,), {}).values())
    return any(one.numel() == value.numel() and len(one) == len(value) and _same(one, value) for one in every)


def _same(one: Tensor, other: Tensor) -> bool:
    if one.device != other.device or one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr():
        return True
    return torch.equal(one[0].flatten().to(other.dtype), other[0].flatten())
