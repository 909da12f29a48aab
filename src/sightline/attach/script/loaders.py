"""Notices which DataLoader feeds a script's models: the last one that gave a batch before a training forward."""

from __future__ import annotations

import functools
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _BaseDataLoaderIter

from sightline.attach.feed import Feed, made_anew
from sightline.attach.hook import Hook
from sightline.guard.probes.draws import Copy

MOST = 1 << 12  # samples of a batch whose places are kept


class Loaders:
    """Every loader of the process, since `install`. `fault`: told of errors of our own."""

    def __init__(self, fault: Callable[[str], None]) -> None:
        self._hook = lambda act: Hook(act, lambda error: fault(f"loader: {error!r}"))
        self._epochs: weakref.WeakKeyDictionary[DataLoader[Any], int] = weakref.WeakKeyDictionary()
        self._lengths: weakref.WeakKeyDictionary[DataLoader[Any], dict[int, int]] = weakref.WeakKeyDictionary()
        self._of: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
        self._given: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()  # batches of this epoch
        self._latest: tuple[weakref.ref[DataLoader[Any]], int, list[int] | None] | None = None  # place and samples
        self._batches: tuple[Any, ...] = ()  # the last two
        self._waited = 0.0
        self.hearing: Callable[..., None] | None = None  # told of a batch: its pass, itself, its samples' places
        self._passes = 0
        self._places: weakref.WeakKeyDictionary[Any, tuple[int, deque[Any]]] = weakref.WeakKeyDictionary()

    def install(self) -> None:
        """Notice every epoch of every loader, and how long each batch is waited for."""
        iterate, fetch = DataLoader.__iter__, _BaseDataLoaderIter.__next__
        began, gave, ended = self._hook(self._began), self._hook(self._gave), self._hook(self._ended)

        @functools.wraps(iterate)
        def iterated(loader: DataLoader[Any]) -> Any:
            iterator = iterate(loader)
            if not isinstance(loader, Copy):
                began(loader, iterator)
            return iterator

        @functools.wraps(fetch)
        def fetched(iterator: Any) -> Any:
            start = time.perf_counter()
            try:
                batch = fetch(iterator)
            except StopIteration:
                ended(iterator)
                raise
            gave(iterator, time.perf_counter() - start, batch)
            return batch

        if (order := getattr(_BaseDataLoaderIter, "_next_index", None)) is not None:
            drew = self._hook(self._drew)

            @functools.wraps(order)
            def drawn(iterator: Any) -> Any:
                places = order(iterator)
                drew(iterator, places)
                return places

            _BaseDataLoaderIter._next_index = drawn  # type: ignore[method-assign]

        DataLoader.__iter__ = iterated  # type: ignore[method-assign]
        _BaseDataLoaderIter.__next__ = fetched  # type: ignore[method-assign, assignment]
        Feed.source, Feed.begun = self._last, self._epochs.__contains__

    def _began(self, loader: DataLoader[Any], iterator: Any) -> None:
        if loader not in self._epochs and (former := self._former(loader)) is not None:
            self._epochs[loader] = self._epochs[former]
            self._lengths[loader] = self._lengths.setdefault(former, {})
        self._epochs[loader] = self._epochs.get(loader, -1) + 1
        lasts = getattr(loader, "_iterator", None) is iterator  # with its workers, in the loader itself
        self._of[iterator], self._given[iterator] = weakref.ref(loader) if lasts else lambda: loader, 0

    def _former(self, loader: DataLoader[Any]) -> DataLoader[Any] | None:
        """The one that gave the last batch of the same data, if this one was made in its place."""
        alike = [one for one in self._epochs if made_anew(loader, one)]
        return max(alike, key=lambda one: self._epochs[one], default=None)

    def _drew(self, iterator: Any, places: Any) -> None:
        """A batch is to be made of the samples in these places; workers are told a few batches ahead."""
        if isinstance(places, list) and len(places) <= MOST and all(type(place) is int for place in places):
            if iterator not in self._places:
                self._passes += 1
                self._places[iterator] = self._passes, deque()
            self._places[iterator][1].append(places)

    def _gave(self, iterator: Any, seconds: float, batch: Any) -> None:
        number, ahead = self._places.get(iterator, (0, None))
        samples = ahead.popleft() if ahead else None
        if (of := self._of.get(iterator)) is not None and (loader := of()) is not None:
            self._latest = weakref.ref(loader), self._given[iterator], samples
            self._batches = (batch, *self._batches[:1])
            self._given[iterator] += 1
            self._waited += seconds
        if samples is not None and self.hearing is not None:
            self.hearing(number, batch, samples)

    def _ended(self, iterator: Any) -> None:
        """It has no more batches: so many are an epoch of its loader."""
        of = self._of.get(iterator)
        if of is not None and (loader := of()) is not None and loader in self._epochs:
            self._lengths.setdefault(loader, {})[self._epochs[loader]] = self._given[iterator]

    def _last(self) -> Feed | None:
        """The loader that gave the last batch."""
        loader = self._latest[0]() if self._latest else None
        if loader is None or self._latest is None:
            return None
        place, samples, lengths = self._latest[1], self._latest[2], self._lengths.setdefault(loader, {})
        return Feed(loader, self._epochs.get(loader, 0), self._waited, place, lengths, samples, self._batches)
