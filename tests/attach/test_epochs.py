"""Samplers of somebody's own that are to be told each epoch."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, Sampler, TensorDataset

import sightline

ROWS = TensorDataset(torch.randn(64, 4, generator=torch.Generator().manual_seed(1)))


class Batches(Sampler[list[int]]):
    """Batches in an order of its own, which follows from `style`."""

    def __init__(self, style: str) -> None:
        self.style, self.epoch, self.order = style, 0, list(range(64))
        self.draws = random.Random(0)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return 8

    def __iter__(self) -> Iterator[list[int]]:
        if self.style == "in order":
            order = list(range(64))
        elif self.style == "by torch's numbers":
            order = torch.randperm(64).tolist()
        elif self.style == "in place":
            self.draws.shuffle(self.order)
            order = self.order
        else:
            order = torch.randperm(64, generator=torch.Generator().manual_seed(self.epoch)).tolist()
        yield from (order[at : at + 8] for at in range(0, 64, 8))
        self.epoch += self.style == "counts by itself"


class Stream(IterableDataset[Tensor]):
    """Rows in an order that follows from the epoch, or in their own."""

    def __init__(self, style: str) -> None:
        self.style, self.epoch, self.draws = style, 0, random.Random(0)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[Tensor]:
        order = list(range(64))
        if self.style != "in order":
            (random.Random(self.epoch) if self.style == "by epoch" else self.draws).shuffle(order)
        yield from (ROWS.tensors[0][row] for row in order)


def found(style: str, told: bool, *, stream: bool = False) -> list[str]:
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    sampler: Any = Stream(style) if stream else Batches(style)
    loader: Any = DataLoader(sampler, batch_size=8) if stream else DataLoader(ROWS, batch_sampler=sampler)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with sightline.attach(model, optimizer, loader, on_finding=None, budget=1.0) as guard:
        for epoch in range(3):
            if told:
                sampler.set_epoch(epoch)
            if stream:
                guard.loading.epoch(loader)
            for rows in loader if stream else (rows for (rows,) in loader):
                optimizer.zero_grad()
                model(rows).square().mean().backward()
                optimizer.step()
    return [one.code for one in guard.findings if one.code == "I3"]


def test_an_own_sampler_that_is_never_told_its_epoch() -> None:
    assert found("by epoch", told=False) == ["I3"]
    assert not found("by epoch", told=True)


@pytest.mark.parametrize("style", ["in order", "by torch's numbers", "in place", "counts by itself"])
def test_own_samplers_that_need_not_be_told(style: str) -> None:
    assert not found(style, told=False)


def test_a_stream_that_is_never_told_its_epoch() -> None:
    assert found("by epoch", told=False, stream=True) == ["I3"]
    assert not found("by epoch", told=True, stream=True)
    assert not found("in order", told=False, stream=True)
    assert not found("by draws", told=False, stream=True)
