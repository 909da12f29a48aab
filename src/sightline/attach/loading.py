"""Watches how data reaches a model: the loader's set-up, what each batch held, and how long the model waited for it."""

from __future__ import annotations

import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sized
from dataclasses import replace
from statistics import median
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from sightline.attach import mixed
from sightline.attach.classes import Taught, may_teach_classes, pulls, rows_taught, tags_taught
from sightline.attach.feed import Feed, deals, made_anew, order_of, splitting
from sightline.attach.files import misfiled
from sightline.attach.partners import Table, mispaired
from sightline.attach.prints import made, part_hashes, plain, text_and_image, together
from sightline.attach.recorder import Recorder
from sightline.attach.reopened import for_each
from sightline.guard.evidence import Fed, FeedSeen, LoaderSeen, WaitingSeen
from sightline.guard.probes.call import Call, outcome
from sightline.guard.probes.collated import collated
from sightline.guard.probes.draws import draws, seconds_a_batch
from sightline.guard.probes.paired import paired

AT_FIRST = 64  # batches that are all hashed: most faults of a loader show in its first ones
OPENED = 32  # more, of steps that are measured anyway: rows of a longer epoch come back in these
SHARE = 0.25  # of the guard's budget that hashing later batches may take
ROWS, STEPS = 65_536, 256  # rows remembered, and steps whose waits are
PROBED, AT_LAST, RIPE = 3, 16, 48  # training forwards before rows are probed; where batches do not vary; once more
PAIRED = 32  # before labels are: a short run has learnt nothing that would be wrong
WHY = {
    "LoaderSeen": "no loader was shown: attach(..., dataloader=loader)",
    "DrawsSeen": "no loader of a map-style data set with two or more forked workers was shown, or it was too slow",
    "PairedSeen": "no loader of samples that hold an image and its mask or boxes was seen to move the image,"
    " nor one with a collate function of its own whose parts could be traced to its samples",
    "CollatedSeen": "no loader with a collate function of its own was shown, or it makes each batch anew at random",
    "FiledSeen": "no loader was shown of numbered files out of order, nor of rows whose labels are not theirs",
    "FeedSeen": "no training batch of tensors was seen",
    "RowsSeen": "no training batch was seen whose inputs share their leading dimension",
    "WaitingSeen": "no steps with a loader in sight: attach(..., dataloader=loader)",
}


class Loading:
    """The feed of one model. `loader`: where the host told it; else whoever notices loaders is asked."""

    def __init__(
        self, recorder: Recorder, loader: Iterable[Any] | None, wants: Callable[[str], bool], budget: float
    ) -> None:
        self._recorder, self._offer, self._wants, self._budget = recorder, recorder.offer, wants, budget
        self._loader = loader if isinstance(loader, DataLoader) else None
        self._told, self._inferred = False, 0  # epochs are told by `epoch`, or inferred from the steps
        self._seen: LoaderSeen | None = None
        self._fed: dict[int, Fed] = {}
        self._reader, self._several = Taught(), False  # backward passes come through one output
        self._forwards, self._forwards_before, self._hashed, self._shown = 0, 0, 0, 0  # the second: this step
        self._rows_due = PROBED if wants("RowsSeen") else 0  # the forward from which on they are probed; 0: no more
        self._asks = [(0, misfiled), (PAIRED, mispaired)] if wants("FiledSeen") else []  # from which forward on
        self._table: Table | None = None
        self._pairs_asked = not wants("PairedSeen")
        self._collate_asked = self._pairs_asked and not wants("CollatedSeen")
        self._spent, self._began = 0.0, time.perf_counter()
        self._waits: deque[tuple[float, float, int]] = deque(maxlen=STEPS)  # with the step's forwards
        self._stepped: float | None = None
        self._last = 0.0
        self._idle: float | None = None
        self._waited: float | None = None
        self._waited_before = 0.0
        self._told_epoch: weakref.WeakKeyDictionary[DataLoader[Any], int] = weakref.WeakKeyDictionary()
        self._numbers: dict[int, int] = {}  # of an epoch here, and of the same among all that its loader gave
        self._ended: Mapping[int, int] = {}  # of these, those that it gave to the end -> batches; grows by itself
        self._known: weakref.WeakKeyDictionary[DataLoader[Any], LoaderSeen] = weakref.WeakKeyDictionary()

    # --- what a host may say -----------------------------------------------------------------------------------------

    def epoch(self, loader: DataLoader[Any]) -> None:
        """An epoch of `loader`, which feeds this model, begins."""
        seen, former = self._known.get(loader), self._loader
        if seen is None and former is not None and made_anew(loader, former):
            seen = self._known.get(former)
        self._seen, self._loader, self._told = seen, loader, True
        self._epoch()

    def waited(self, seconds: float) -> None:
        """The loop waited so long for a batch of the loader."""
        self._waited = (self._waited or 0.0) + seconds

    @property
    def fed(self) -> list[Fed]:
        """The batches that were hashed, oldest first."""
        return list(self._fed.values())

    # --- what the recorder tells -------------------------------------------------------------------------------------

    def woke(self) -> None:
        """How long the step that begins has waited is not known."""
        self._stepped = self._idle = None
        if (feed := Feed.last()) is not None:
            self._waited_before = feed.waited

    def begins(self) -> None:
        """The first forward of a step: the wait for data is over."""
        if self._stepped is not None:
            self._idle, self._stepped = time.perf_counter() - self._stepped, None
        if (feed := Feed.last()) is not None:
            self.waited(feed.waited - self._waited_before)
            self._waited_before = feed.waited
            self._follow(feed)
        self._ask_collate()
        self._ask_files()

    def _follow(self, feed: Feed) -> None:
        """The loader that gave the last batch, and its epoch, where they are new."""
        if feed.loader not in self._known or self._told_epoch.get(feed.loader) != feed.epoch:
            self._told_epoch[feed.loader] = feed.epoch
            self.epoch(feed.loader)
            self._numbers[self._known[feed.loader].epoch], self._ended = feed.epoch, feed.lengths
        self._loader, self._seen = feed.loader, self._known[feed.loader]

    def trained(self, call: Call, output: Any) -> None:
        """A training forward: the batch is hashed, and the first ones are probed."""
        start = time.perf_counter()
        self._infer_epoch()
        self._forwards += 1
        self._ask_pairs(call, output)
        if output is not None and self._hashes():
            self._hashed += 1
            self._hash(call, output)
            self._show()
            self._probe_rows(call, output)
            self._spent += time.perf_counter() - start

    def stepping(self) -> None:
        """Nothing to note."""

    def stepped(self) -> None:
        """The wait for the next batch begins."""
        now = time.perf_counter()
        if self._idle is not None:
            wait = self._idle if self._waited is None else self._waited
            self._waits.append((wait, now - self._last, self._forwards - self._forwards_before))
            self._idle = None
        self._waited = None if self._waited is None else 0.0
        self._stepped = self._last = now
        self._forwards_before = self._forwards

    def close(self) -> None:
        """The run is over: what was seen is shown once more."""
        self._recorder.mailbox.open(wait=True)
        self._forwards = max(self._forwards, self._recorder.step)  # some were slept through
        self._ask_files()
        if self._table is not None and (seen := self._table.seen(self.fed, self._recorder.step)) is not None:
            self._offer(seen)
        if self._fed:
            self._show(final=True)
        self._show_waits()

    # --- batches -----------------------------------------------------------------------------------------------------

    def _hashes(self) -> bool:
        if self._forwards <= AT_FIRST or self._budget >= 1:
            return True
        step = self._recorder.open_step
        if self._hashed < AT_FIRST + OPENED and step is not None and step.measured:
            return True
        return self._spent < SHARE * self._budget * (time.perf_counter() - self._began)

    def _hash(self, call: Call, output: Any) -> None:
        call = self._recorder.opened or call
        parts = [] if made(call) else part_hashes(call)
        hashes = together([one for _, one in parts])
        if hashes is None:
            return
        r, number = self._recorder, self._forwards
        if number == PAIRED and self._loader is None and self._wants("FiledSeen"):
            self._table = Table.of(parts)
        epoch = self._seen.epoch if self._seen and self._told else None
        step, place = r.step, feed.place if (feed := Feed.last()) is not None and epoch is not None else None
        r.mailbox.post([hashes, *text_and_image(parts)], lambda v: self._came(number, step, epoch, place, v))
        logits = outcome(output).logits
        if logits is None and isinstance(output, Tensor):
            logits = output
        if may_teach_classes(logits, len(hashes)):
            assert logits is not None
            box = [logits.detach()]
            logits.register_hook(lambda grad: self._gradient_came(number, box, grad, plain(call)))

    def _gradient_came(self, number: int, box: list[Tensor], grad: Tensor, tensors: bool) -> None:
        if self._recorder.muted:
            return
        self._several = self._several or not box
        if box:
            self._recorder.mailbox.post([box.pop(), grad], lambda values: self._taught(number, tensors, *values))

    def _came(self, number: int, step: int, epoch: int | None, place: int | None, values: list[Tensor]) -> None:
        inputs, *sides = (tuple(value.tolist()) for value in values)
        self._fed[number] = Fed(step, inputs, None, epoch, place, *sides)
        while len(self._fed) * max(1, len(inputs)) > ROWS:
            del self._fed[next(iter(self._fed))]

    def _taught(self, number: int, tensors: bool, logits: Tensor, grad: Tensor) -> None:
        if number not in self._fed:
            return
        classes = self._reader.classes(logits, grad)
        rows = rows_taught(grad) if classes is None and not self._several else None
        tags = tags_taught(logits, grad) if classes is None else None
        line = pulls(logits, grad) if tensors and classes is None and tags is None else ()
        self._fed[number] = replace(self._fed[number], classes=classes, taught=rows, tags=tags, pulls=line)

    def _show(self, *, final: bool = False) -> None:
        count = len(self._fed)
        if final or (count >= 8 and count & (count - 1) == 0 and count != self._shown):
            self._shown = count
            self._offer(FeedSeen(self._recorder.step, tuple(self._fed.values()), self._seen, self._lengths()))

    def _lengths(self) -> dict[int, int]:
        """Epochs of the loader that are over -> their batches."""
        return {mine: self._ended[theirs] for mine, theirs in self._numbers.items() if theirs in self._ended}

    def _ask_collate(self) -> None:
        """Once, of a loader that makes batches in a way of its own."""
        if self._collate_asked or self._loader is None:
            return
        self._collate_asked = True
        rows, batch = collated(self._loader, self._recorder.step)
        if rows is not None and rows.parted:
            self._pairs_asked = True
            self._offer(rows)
        if batch is not None:
            self._offer(batch)

    def _ask_files(self) -> None:
        """Once each, of a loader: have its labels the order of other files, or that of other rows?"""
        while self._asks and self._loader is not None and self._forwards >= self._asks[0][0]:
            if (seen := self._asks.pop(0)[1](self._loader, self._recorder.step)) is not None:
                self._offer(seen)

    def _ask_pairs(self, call: Call, output: Any) -> None:
        """Once, of a loader that feeds images to a model which gives more than a row of numbers for each."""
        if self._pairs_asked or self._loader is None:
            return
        self._pairs_asked = True
        images = call.tensor("pixel_values")
        logits = outcome(output).logits
        if images is None or (logits is not None and logits.dim() < 3):
            return
        if (seen := paired(self._loader, self._recorder.step)) is not None:
            self._offer(seen)

    def _probe_rows(self, call: Call, output: Any) -> None:
        """When the model has been fed different batches, and once more."""
        if not 0 < self._rows_due <= self._forwards:
            return
        varied = len({fed.print for fed in self._fed.values()}) > 1
        if not varied and self._forwards < AT_LAST:
            return
        self._rows_due = RIPE if self._rows_due < RIPE else 0
        if call.repeatable:
            mixed.ask(self._recorder, call, output, varied=varied)

    # --- the loader --------------------------------------------------------------------------------------------------

    def _infer_epoch(self) -> None:
        """Where epochs are not told: no epoch has fewer batches than steps were taken in it."""
        loader = self._loader
        if loader is None or self._told:
            return
        length = _batches(loader)
        epoch = self._recorder.step // length if length else 0
        if self._seen is None or epoch > self._inferred:
            self._inferred = epoch
            self._epoch()

    def _epoch(self) -> None:
        """An epoch begins: read the set-up; in the first, draw in workers."""
        loader, before = self._loader, self._seen
        assert loader is not None
        sampler, batches = splitting(loader), _batches(loader)
        length = len(loader.dataset) if batches and isinstance(loader.dataset, Sized) else None
        self._seen = LoaderSeen(
            step=self._recorder.step,
            epoch=before.epoch + 1 if before else 0,
            iterable=isinstance(loader.dataset, IterableDataset),
            workers=loader.num_workers,
            replicas=getattr(sampler, "num_replicas", None),
            shuffles=told if type(told := getattr(sampler, "shuffle", None)) is bool else None,
            deals=(anew := deals(sampler, before)),
            orders=(*(before.orders if before else ()), order_of(sampler, anew)),
            samples=len(sampler) if isinstance(sampler, Sized) else None,
            batches=batches,
            starts=(*(before.starts if before else ()), self._recorder.step) if self._told else (),
            size=loader.batch_size,
            length=length,
        )
        self._known[loader] = self._seen
        self._offer(self._seen)
        if before is None and self._wants("DrawsSeen") and (seen := draws(loader, self._recorder.step)) is not None:
            self._offer(seen)

    def _show_waits(self) -> None:
        if (loader := self._loader) is None or not self._waits:
            return
        wait, period, micro = (median(column) for column in zip(*self._waits, strict=True))
        size = loader.batch_size or getattr(loader.batch_sampler, "batch_size", None)
        samples = round(size * micro) if size else None
        seen = WaitingSeen(
            step=self._recorder.step,
            steps=len(self._waits),
            wait=wait,
            period=period,
            workers=loader.num_workers,
            exact=self._waited is not None,
            device=next(self._recorder.model.parameters()).device.type,
            samples=samples,
            pinned=loader.pin_memory,
            reopened=for_each(self._recorder.step * (samples or 0)) if not loader.num_workers else None,
        )
        if not seen.exact and wait > 0.4 * period and wait > 0.005:
            seen = replace(seen, make=seconds_a_batch(loader))
        self._offer(seen)


def _batches(loader: DataLoader[Any]) -> int | None:
    """Of one epoch, where that is certain."""
    return None if isinstance(loader.dataset, IterableDataset) else len(loader)
