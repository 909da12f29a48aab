"""Does a collate function keep what belongs together in one row? Its batch, beside the samples that it was given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from sightline.guard.evidence import PairedSeen
from sightline.guard.probes.draws import SECONDS, Copy, can_be_copied
from sightline.guard.probes.samples import arrays_of, quiet_worker

SAMPLES, LEAST = 16, 6  # of which a batch is made; fewer may be in order by chance
Order = list[set[int]]  # of each row of a batch, the samples that it may be of


def collated(loader: DataLoader[Any], step: int) -> PairedSeen | None:
    """Let a forked worker read a few samples and collate them; of each row, which sample is each of its parts from?

    Nothing of the host's is touched or printed. None for torch's own collate function, and where a part of the batch
    cannot be traced to the samples: it may say how the others are to be read.
    """
    if not can_be_copied(loader, least=0) or loader.collate_fn in (None, default_collate) or not loader.batch_size:
        return None
    count = min(SAMPLES, len(loader.dataset))  # type: ignore[arg-type]
    if count < LEAST:
        return None
    copy = Copy(
        loader.dataset,
        batch_sampler=[list(range(count))],
        num_workers=1,
        collate_fn=_Compared(loader.collate_fn),
        worker_init_fn=quiet_worker,
        multiprocessing_context="fork",
        generator=torch.Generator().manual_seed(0),
        timeout=SECONDS,
    )
    try:
        answers = list(copy)
    except RuntimeError:  # the worker failed or was too slow: the host's own loader will tell
        return None
    apart = answers[0] if answers else None
    return None if apart is None else PairedSeen(step, "rows", count, apart)


class _Compared:
    """Collates, and answers how many rows hold parts of different samples; None where that cannot be told."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self._collate = collate

    def __call__(self, samples: list[Any]) -> int | None:
        parts = [[part.clone() for part in arrays_of(sample)] for sample in samples]
        if len({len(each) for each in parts}) != 1 or len(parts[0]) < 2:
            return None
        return _apart(list(zip(*parts, strict=True)), self._collate(list(samples)))


def _apart(parts: list[tuple[Tensor, ...]], batch: Any) -> int | None:
    count = len(parts[0])
    found: dict[int, list[Order]] = {}
    others: list[Tensor] = []
    for column in _columns(batch):
        if len(column) != count:
            return None
        orders = {at: order for at, part in enumerate(parts) if (order := _order(column, part)) is not None}
        if not orders:
            others.append(column)
        for at, order in orders.items():
            found.setdefault(at, []).append(order)
    if not all(_lengths(other, parts, found) for other in others):
        return None
    told = {at: each for at, each in found.items() if any(len(row) == 1 for order in each for row in order)}
    worst = [
        min(sum(a.isdisjoint(b) for a, b in zip(x, y, strict=True)) for x in told[one] for y in told[two])
        for one in told
        for two in told
        if one < two
    ]
    return max(worst) if worst else None


def _columns(batch: Any) -> Iterator[Tensor]:
    """The tensors of a batch, and its lists of numbers."""
    if isinstance(batch, list | tuple) and batch and all(isinstance(value, int | float) for value in batch):
        yield torch.tensor(batch)
    elif isinstance(batch, Tensor):
        yield batch if batch.dim() else batch[None]
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from _columns(value)
    elif isinstance(batch, list | tuple):
        for value in batch:
            yield from _columns(value)
    elif not isinstance(batch, str | bytes):
        yield torch.empty(0)  # what is not known may say how the rest is to be read


def _order(column: Tensor, part: tuple[Tensor, ...]) -> Order | None:
    """Of each row the samples whose part it is, token ids with padding behind them; None where a row is of none."""
    order = [{at for at, own in enumerate(part) if _same(row, own)} for row in column]
    return order if all(order) else None


def _same(row: Tensor, own: Tensor) -> bool:
    if row.is_floating_point() != own.is_floating_point():
        return False
    if row.shape == own.shape:
        return torch.equal(row, own.to(row.dtype))
    if row.dim() != 1 or own.dim() != 1 or len(row) < len(own) or row.is_floating_point():
        return False
    rest = row[len(own) :]
    return torch.equal(row[: len(own)], own.to(row.dtype)) and bool((rest == rest[0]).all())


def _lengths(column: Tensor, parts: list[tuple[Tensor, ...]], found: Mapping[int, list[Order]]) -> bool:
    """Whether it holds the lengths of texts, or masks of them, row by row."""
    totals = column.reshape(len(column), -1).sum(dim=1).tolist()
    return any(
        parts[at][0].dim() == 1
        and all(any(total == len(parts[at][i]) for i in row) for total, row in zip(totals, order, strict=True))
        for at, orders in found.items()
        for order in orders
    )
