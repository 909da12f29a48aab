"""Does a collate function keep what belongs together in one row? Its batch, beside those of each sample alone."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler, Subset, default_collate

from sightline.guard.evidence import CollatedSeen, PairedSeen
from sightline.guard.probes.batch_rows import BatchRows, same_row
from sightline.guard.probes.draws import can_be_copied, digest, quiet_copy
from sightline.guard.probes.fields import deep_copy, leaves, members, rebuilt

SAMPLES, LEAST = 16, 6  # of which a batch is made; fewer may be in order by chance
COPIES = 2  # of a sample in the batch that shows it alone: what its rows do not share is no fact of the sample
AGAIN = 8  # batches of one sample: a label of the whole batch that is drawn at random agrees in all of them once in 128
SWAPS = 3  # pairs of samples that trade a part, to see which columns it goes into
PARTS = 8  # of a sample; more are numbers of a list
SCORES = 4  # of a row, and all alike: fewer may be those of a label
SLOW = 0.15  # seconds for the one batch: all others together take some five times that
LEAST_LOST, WIDE = 2, 32  # samples of a batch, of which one is no batch; numbers of a part: fewer tell of a batch
WHOLE = "batch"
AT_ONCE = "the data set's transform (all rows of a batch at once)"
Told = TypeVar("Told")
Order = list[set[int]]  # of each row of a batch, the samples that it may be of


def collated(loader: DataLoader[Any], step: int) -> tuple[PairedSeen | None, CollatedSeen | None]:
    """Let a forked worker read a few samples and collate them; of each row, which sample is each of its parts from?

    Nothing of the host's is touched or printed. None for torch's own collate function, and where it cannot be told.
    And does the data set read as many as it is asked for?
    """
    if not can_be_copied(loader, least=0):
        return None, None
    many = len(loader.dataset)  # type: ignore[arg-type]
    count = min(SAMPLES, many)
    size = loader.batch_size or getattr(loader.batch_sampler, "batch_size", None) or 1
    if loader.batch_sampler is None or count < LEAST:
        return None, None
    places = random.Random(0).sample(range(many), count)  # from all over: what is sorted has one class or length there
    if size > 1 and _one_of(loader.dataset, places):
        return None, CollatedSeen(step, min(size, count), of_one=True, by=AT_ONCE)
    if loader.collate_fn in (None, default_collate):
        return None, None
    dealt = type(loader.sampler) is RandomSampler  # else a batch may be of samples that share a part
    copied = quiet_copy(loader.dataset, [places], _Compared(loader.collate_fn, size, dealt=dealt))
    try:
        answers = list(copied)
    except RuntimeError:  # the worker failed or was too slow: the host's own loader will tell
        return None, None
    apart, of_one = answers[0] if answers else (None, None)
    rows = PairedSeen(step, "rows", count, apart) if apart is not None else None
    if of_one is None:
        return rows, None
    return rows, CollatedSeen(step, min(size, count), of_one == WHOLE, part=of_one.removeprefix(f"{WHOLE}."))


def _one_of(data: Any, places: list[int]) -> bool:
    """Whether a data set that reads several samples at once (one of `datasets`, with a transform) gives one of them."""
    whole = data
    while isinstance(whole, Subset):
        whole = whole.dataset
    if not hasattr(whole, "__getitems__"):
        return False
    try:
        return list(quiet_copy(data, [places], len)) == [1]
    except RuntimeError:
        return False


class _Compared:
    """Collates, and answers how many rows hold parts of different samples, and what of a batch is of one alone.

    None for what cannot be told. `size`: samples of a batch of the host's; `dealt`: drawn by chance.
    """

    def __init__(self, collate: Callable[[list[Any]], Any], size: int, *, dealt: bool) -> None:
        self._collate, self._size, self._dealt, self._rows = collate, size, dealt, BatchRows()

    def __call__(self, samples: list[Any]) -> tuple[int | None, str | None]:
        return self._told(self._apart, samples), self._told(self._of_one, samples[: self._size])

    def _told(self, ask: Callable[[list[Any]], Told], samples: list[Any]) -> Told | None:
        try:
            return ask(samples)
        except Exception:  # noqa: BLE001 - one that takes no sample twice, or no parts of two: nothing can be told
            return None

    def _of_one(self, samples: list[Any]) -> str | None:
        """Where the first, or the last, stands for all, and the others could be anything: WHOLE, or a part's path.

        "" where each part is of all samples.
        """
        start = time.perf_counter()
        batch = self._digests(samples)
        if len(samples) < LEAST_LOST or time.perf_counter() - start > SLOW or batch != self._digests(samples):
            return None
        first, last = (self._digests([one] * len(samples)) for one in (samples[0], samples[-1]))
        ends = {path: (first.get(path), last.get(path)) for path in batch}
        return next((path for path, one in batch.items() if one in ends[path] and len(set(ends[path])) > 1), "")

    def _digests(self, samples: list[Any]) -> dict[str, int]:
        """Of all that is made of copies of them, and of its wide numbers, by their paths."""
        batch = self._collate([deep_copy(sample) for sample in samples])
        named = leaves((), {WHOLE: batch}).items() if self._dealt else ()
        parts = {path: digest(one) for path, one in named if one.is_floating_point() and one.numel() >= WIDE}
        return {WHOLE: digest(batch), **parts}

    def _apart(self, samples: list[Any]) -> int | None:
        start = time.perf_counter()
        batch = self._columns(samples)
        if batch is None or time.perf_counter() - start > SLOW:
            return None
        alone = [self._alone(sample) for sample in samples]
        if (known := [one for one in alone if one is not None and one.keys() == batch.keys()]) != alone:
            return None
        orders = {path: _order(rows, [one[path] for one in known]) for path, rows in batch.items()}
        if not all(all(order) for order in orders.values()) or any(_says_nothing(p, known) for p in batch):
            return None
        if not any(_disjoint(a, b) for a, b in combinations(orders.values(), 2)):
            return 0
        return self._between_parts(samples, known, orders) if self._steady(samples, batch, known) else None

    def _columns(self, samples: list[Any]) -> dict[str, list[Tensor]] | None:
        """Path -> its rows, of what is collated of copies."""
        return self._rows.of(self._collate([deep_copy(sample) for sample in samples]), len(samples))

    def _alone(self, sample: Any) -> dict[str, Tensor] | None:
        """Path -> the row of a sample among copies of itself; None where these have different ones."""
        columns = self._columns([sample] * COPIES)
        if columns is None or any(not _equal(rows[0], row) for rows in columns.values() for row in rows):
            return None
        return {path: rows[0] for path, rows in columns.items()}

    def _steady(self, samples: list[Any], batch: Mapping[str, list[Tensor]], known: list[dict[str, Tensor]]) -> bool:
        """Whether nothing is drawn at random: who shuffles a part on purpose may know why."""
        if not _equals(self._columns(samples), batch):
            return False
        again = (self._alone(samples[0]) for _ in range(AGAIN))
        return all(one is not None and _equals(_listed(one), _listed(known[0])) for one in again)

    def _between_parts(
        self, samples: list[Any], known: list[dict[str, Tensor]], orders: Mapping[str, Order]
    ) -> int | None:
        """The most rows in which two parts are of different samples, in whatever columns these are.

        A column may be made of several parts of its sample: a prompt and its answer.
        """
        columns: dict[frozenset[str], list[Order]] = {}
        goes: dict[str, set[str]] = {path: set() for path in orders}
        for part in (names := [name for name, _ in members(samples[0])]):
            for path in self._changed(samples, known, part):
                goes[path].add(part)
        for path, parts in goes.items():
            if parts and path not in self._rows.texts:  # names of files, say, which no model is given
                columns.setdefault(frozenset(parts), []).append(orders[path])
        told = {part: each for part, each in columns.items() if any(len(row) == 1 for order in each for row in order)}
        pairs = [(x, y) for x, y in combinations(told, 2) if x.isdisjoint(y)]
        worst = [min(_disjoint(a, b) for a in told[x] for b in told[y]) for x, y in pairs]
        return max(worst) if worst and len(names) <= PARTS else None

    def _changed(self, samples: list[Any], known: list[dict[str, Tensor]], part: str) -> Iterator[str]:
        """The columns in which a sample is another one when it gets this part from its neighbour."""
        for i in range(SWAPS):
            new = self._alone(_with_part(samples[i], part, samples[i + 1]))
            if new is None:
                raise ValueError(part)
            yield from (path for path, row in known[i].items() if not _equal(row, new[path]))


def _with_part(sample: Any, part: str, other: Any) -> Any:
    old, new = dict(members(sample))[part], dict(members(other))[part]
    return rebuilt(sample, lambda value, name: new if name == part and value is old else value)


def _order(rows: list[Tensor], alone: list[Tensor]) -> Order:
    return [{at for at, own in enumerate(alone) if same_row(row, own)} for row in rows]


def _disjoint(one: Order, other: Order) -> int:
    return sum(a.isdisjoint(b) for a, b in zip(one, other, strict=True))


def _says_nothing(path: str, alone: list[dict[str, Tensor]]) -> bool:
    """Whether a column is the same for all samples, and no mask: it may say of a batch that no parts in it match."""
    first = alone[0][path]
    if any(not _equal(first, one[path]) for one in alone):
        return False
    return first.numel() < SCORES or len(first.unique()) > 1


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def _listed(row: Mapping[str, Tensor]) -> dict[str, list[Tensor]]:
    return {path: [one] for path, one in row.items()}


def _equals(one: Mapping[str, list[Tensor]] | None, other: Mapping[str, list[Tensor]]) -> bool:
    if one is None or one.keys() != other.keys():
        return False
    return all(_equal(a, b) for path in one for a, b in zip(one[path], other[path], strict=True))
