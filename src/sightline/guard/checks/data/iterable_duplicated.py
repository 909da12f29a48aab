"""I2 · Every loader worker reads the whole iterable data set, so each sample comes once per worker.

Symptom: an epoch has `num_workers` times the steps it should have; the model sees each sample that often, in a row or,
behind a shuffle buffer, some time later, and overfits early; a score over a duplicated stream looks normal.
Root cause: with `num_workers > 1` each worker holds a copy of an `IterableDataset`, and `__iter__` does not ask
`get_worker_info()` which part is its own; a pipeline of shards leaves the split between workers out.
Fix: in `__iter__` yield every `num_workers`-th sample from the worker's id on (`itertools.islice(rows, info.id, None,
info.num_workers)`), or give each worker its own shards (webdataset: `split_by_worker`); or `num_workers=1`.
Stays silent when: neighbouring batches have no sample in common, and in an epoch few samples come once from each worker
(shards drawn at random come as chance has it, some of them twice from one worker; a worker that gives a part of all in
an epoch of its own has few in common with another); the data set is map-style or read by one worker.
Sources:
- https://docs.pytorch.org/docs/stable/data.html (2026-11-01): workers replicate an iterable data set and must be told
  apart to avoid duplicates
- https://github.com/huggingface/datasets/issues/3423 (2021-12-13): streamed rows came num_workers times
- https://github.com/huggingface/finetrainers/pull/415 (2025-06-11): each batch came three times in a row
"""

from __future__ import annotations

from itertools import combinations

from sightline.guard.check import CannotTell, Finding, Verdict
from sightline.guard.evidence import Fed, FeedSeen
from sightline.guard.specimen import Run

DOMAINS = ("llm", "vision", "vlm", "diffusion")
ROWS = 8  # different samples that came in several neighbouring batches: a few may be duplicates in the data itself
SHARE = 0.8  # of the samples of a stretch that came once per worker; the last batch of a worker may be short
LEAST = 32  # samples of an epoch that each of two workers should have given: chance then takes a fifth of them at most
TWICE = 0.05  # of the samples of one worker: more come again where it draws at random


def find(feed: FeedSeen) -> Verdict:
    """Look for samples that come again within the stretch in which each worker gives one batch, or in the epoch."""
    loader = feed.loader
    if loader is None:
        return CannotTell("loader (give attach the dataloader)")
    if not loader.iterable or loader.workers < 2:
        return None
    batches = [b for b in feed.batches if b.inputs]
    stretches = [s for s in _stretches(batches, loader.workers) if len({b.step for b in s}) == loader.workers]
    rows = [row for stretch in stretches for row in set(_all(stretch))]
    if len(set(rows)) < ROWS:
        return CannotTell(f"{ROWS} different samples from neighbouring batches")
    compared, repeated = len(rows), sum(_all(s).count(row) >= loader.workers for s in stretches for row in set(_all(s)))
    if len(set(rows)) * 2 < len(rows) or repeated < SHARE * len(rows):  # few samples, read many times on purpose
        compared, repeated = _later(feed, loader.workers)
        if compared < LEAST or repeated < SHARE * compared:
            return None
    return Finding(
        severity="error",
        message=f"samples of an iterable data set come {loader.workers} times, once from each of {loader.workers}"
        " workers",
        fix=f"split the stream in __iter__ by torch.utils.data.get_worker_info() (num_workers is {loader.workers}), or"
        " set num_workers=1",
        seen={"samples compared": compared, "came once per worker": repeated, "workers": loader.workers},
    )


def _stretches(batches: list[Fed], workers: int) -> list[list[Fed]]:
    """Runs of `workers` batches, from the first batch of each epoch on: workers take turns."""
    epochs = [[b for b in batches if b.epoch == epoch] for epoch in dict.fromkeys(b.epoch for b in batches)]
    return [one[start : start + workers] for one in epochs for start in range(0, len(one) - workers + 1, workers)]


def _later(feed: FeedSeen, workers: int) -> tuple[int, int]:
    """Of the epoch that repeats most: samples that two workers should both have shown if each gave all, and that did.

    Where only a share of an epoch's batches was looked at, that share of one worker's samples is seen from another.
    """
    best = 1, 0
    for epoch in {b.epoch for b in feed.batches} - {None}:
        batches = [b for b in feed.batches if b.inputs and b.epoch == epoch]
        given: list[list[int]] = [[] for _ in range(workers)]
        for number, batch in enumerate(batches):
            given[(number if batch.place is None else batch.place) % workers] += batch.inputs
        different = [set(rows) for rows in given]
        count = sum(map(len, different))
        if count < (1 - TWICE) * sum(map(len, given)):
            continue
        share = min(1.0, len(batches) / feed.lengths.get(epoch or 0, len(batches)))
        both = sum(len(a & b) for a, b in combinations(different, 2))
        expected = round(share * count * (workers - 1) / 2)
        if expected >= LEAST and both * best[0] > best[1] * expected:
            best = expected, both
    return best


def _all(stretch: list[Fed]) -> list[int]:
    return [row for batch in stretch for row in batch.inputs]


def specimen(run: Run, *, faulty: bool) -> None:
    """A stream that is split between workers, or is not."""
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, IterableDataset, get_worker_info

    class Stream(IterableDataset):
        split = True

        def __iter__(self):  # type: ignore[no-untyped-def]
            info = get_worker_info()
            start, step = (info.id, info.num_workers) if self.split and info else (0, 1)
            yield from (torch.full((4,), float(i)) for i in range(start, 32, step))

    data, model = Stream(), nn.Linear(4, 2)
    if faulty:
        data.split = False
    loader = DataLoader(data, batch_size=4, num_workers=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5)
    run.attach(model, optimizer, loader)
    for batch in loader:
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()
