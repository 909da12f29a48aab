"""Samples by what data sets hold of them: which of those that are evaluated were trained on, however they are shown?

Images that are augmented while they are trained on are never the same twice, and in an evaluation they are as they
were. What a loader's batch is made of is known by the places that it draws from.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import fields
from typing import Any, ClassVar

from torch import Tensor
from torch.utils.data import DataLoader

from sightline.attach.feed import Feed
from sightline.attach.held import Samples
from sightline.attach.onlookers.onlooker import Recording
from sightline.attach.onlookers.row_inputs import wide_inputs
from sightline.attach.onlookers.shared_rows import SharedRows
from sightline.guard.evidence import SharedRowsSeen
from sightline.guard.evidence.rows import HeldRowsSeen
from sightline.guard.probes.call import Call

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

    def close(self, *, broken: bool) -> None:
        """What belongs to the host is let go."""
        super().close(broken=broken)
        self._samples = Samples()

    def _rows_of(self, call: Call, *, training: bool) -> list[Tensor]:
        wide, feed = wide_inputs(call), Feed.last()
        self._wanted += training
        if feed is None or feed.samples is None or not wide or len(wide[0]) != len(feed.samples):
            return []
        if not self._fresh(feed, training=training):
            return []
        pictures = any(value.dim() == 4 and value.is_floating_point() for value in wide)
        names = self._samples.names(feed.loader.dataset, feed.samples, loose=pictures)
        self._fed += training and names is not None
        return [] if names is None else [names]

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
            self.recorder.offer(HeldRowsSeen(**{one.name: getattr(seen, one.name) for one in fields(seen)}))
