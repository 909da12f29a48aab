"""Faults on the way of the data to the model."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from statistics import median
from typing import Any

import torch
from datasets import Dataset as Table
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from tests.hosts import small
from tests.hosts.planting import plants
from tests.hosts.shared.language import tokenized, usual_collator
from tests.hosts.shared.networks import network
from tests.hosts.task import Classifier, Task, points


class Forgets:
    """Hides one word in four, by a generator of its own, or torch's, which each worker seeds anew."""

    def __init__(self, own: bool) -> None:
        self._draw = torch.Generator().manual_seed(0) if own else None

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        return {**rows, "input_ids": [self._hide(ids) for ids in rows["input_ids"]]}

    def _hide(self, ids: list[int]) -> list[int]:
        hidden = torch.rand(len(ids), generator=self._draw) < 0.25
        return torch.tensor(ids).masked_fill(hidden, 0).tolist()


@plants("I1", "hf_trainer", "trl", "lightning", "accelerate")
def a_generator_made_before_the_workers(faulty: bool) -> Task:
    rows = Table.from_list(tokenized()).with_transform(Forgets(faulty))
    return Task(small.language_model(), rows, usual_collator(), workers=2, steps=6)


class Reads:
    """Takes no time, or six times what mostly lies between two reads: slow however busy the machine is."""

    def __init__(self, slow: bool) -> None:
        self._slow, self._seconds = slow, 0.12
        self._between, self._returned = deque([0.0] * 4, maxlen=7), time.perf_counter()

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        self._between.append(time.perf_counter() - self._returned)
        self._seconds = max(self._seconds, min(6 * median(self._between), 1.5))
        time.sleep(self._seconds if self._slow else 0.0)
        self._returned = time.perf_counter()
        return rows


@plants("I6", "hf_trainer", "trl", "lightning", "accelerate")
def rows_that_take_longer_than_a_step(faulty: bool) -> Task:
    rows = Table.from_list(tokenized()).with_transform(Reads(slow=faulty))
    return Task(small.language_model(), rows, usual_collator(), batch=4, steps=9)


class Stream(IterableDataset[dict[str, Tensor]]):
    """Split between workers, or not."""

    def __init__(self, split: bool) -> None:
        self._rows, self._split = points(), split

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        info = get_worker_info()
        start, step = (info.id, info.num_workers) if self._split and info else (0, 1)
        yield from self._rows[start::step]


@plants("I2", "hf_trainer", "lightning", "accelerate")
def a_stream_that_every_worker_reads_whole(faulty: bool) -> Task:
    return Task(Classifier(network()), Stream(not faulty), workers=2, steps=8, batch=4)
