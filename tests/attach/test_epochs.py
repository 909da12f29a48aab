"""Samplers of somebody's own that are to be told each epoch."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Sampler, TensorDataset

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


def found(style: str, told: bool) -> list[str]:
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    sampler = Batches(style)
    loader = DataLoader(ROWS, batch_sampler=sampler)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with sightline.attach(model, optimizer, loader, on_finding=None, budget=1.0) as guard:
        for epoch in range(3):
            if told:
                sampler.set_epoch(epoch)
            for (rows,) in loader:
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
