"""Faults on the way of the data to the model."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from tests.hosts.planting import plants
from tests.hosts.shared.networks import network
from tests.hosts.task import Classifier, Task, points


class Noisy(Dataset[dict[str, Tensor]]):
    """Noise on every row, from a generator that the data set makes too early, or in the worker."""

    def __init__(self, early: bool) -> None:
        self._rows = points()
        self._draw = torch.Generator().manual_seed(0) if early else None

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        self._draw = self._draw or torch.Generator().manual_seed(torch.initial_seed())
        row = self._rows[index]
        return {**row, "x": row["x"] + 0.1 * torch.randn(16, generator=self._draw)}


@plants("I1", "hf_trainer", "lightning", "accelerate")
def a_generator_made_before_the_workers(faulty: bool) -> Task:
    return Task(Classifier(network()), Noisy(faulty), workers=2, steps=8)


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


class Slow(Dataset[dict[str, Any]]):
    """Rows that take their time."""

    def __init__(self, rows: Any, seconds: float) -> None:
        self._rows, self._seconds = rows, seconds

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        time.sleep(self._seconds)
        return self._rows[index]


@plants("I6", "hf_trainer", "lightning", "accelerate")
def rows_that_take_longer_than_a_step(faulty: bool) -> Task:
    return Task(Classifier(network()), Slow(points(), 0.02 if faulty else 0.0), batch=4, steps=12)
