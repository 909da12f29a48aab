"""Rows that are ids of several things, lists of pictures, a single pass of many batches: what was trained on?"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sightline
from sightline.guard.catalogue import load, page

USERS, ITEMS, BATCH = 60, 80, 32


class Factors(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(USERS, 4), nn.Embedding(ITEMS, 4)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        return (self.user(user) * self.item(item)).sum(1)


def told(train: list[Tensor], test: Tensor, net: nn.Module) -> list[str]:
    """What M1 says where `test` is judged after each epoch of `train`, in columns that the model is given."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    with sightline.attach(net, optimizer, on_finding=None, checks=load((page("M1"),)), budget=0.02) as guard:
        for rows in train:
            for batch in rows.split(BATCH):
                optimizer.zero_grad()
                net(*batch.unbind(1)).square().mean().backward()
                optimizer.step()
            net.eval()
            with torch.no_grad():
                net(*test.unbind(1))
            net.train()
    return [finding.message for finding in guard.findings if finding.code == "M1"]


def pairs(places: Tensor) -> Tensor:
    return torch.stack([places // ITEMS, places % ITEMS], 1)


@pytest.mark.parametrize("leaks", [True, False])
def test_pairs_of_ids(leaks: bool) -> None:
    torch.manual_seed(0)
    order = torch.randperm(USERS * ITEMS)[:1500]
    test = order[:200]
    train = [pairs((order if leaks else order[200:])[torch.randperm(1500 - 200 * (not leaks))]) for _ in range(3)]
    found = told(train, pairs(test), Factors())
    assert [one.split(" evaluated")[0] for one in found] == (["200 of 200"] if leaks else [])


def test_pairs_that_were_drawn_as_wrong_ones() -> None:
    """Held-out pairs among others that nobody chose, some of which training drew, too, each once an epoch."""
    torch.manual_seed(0)
    order = torch.randperm(USERS * ITEMS)
    chosen, others, held = order[:600], order[600:4600], order[4600:]
    train = [pairs(torch.cat([chosen, others[torch.randperm(4000)[:1200]]])[torch.randperm(1800)]) for _ in range(4)]
    assert told(train, pairs(torch.cat([held, others[torch.randperm(4000)[:900]]])), Factors()) == []


class Plain(nn.Module):
    """Given numbers, not ids."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.ones(()))

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        return F.relu(self.rate * one.float() - other)


def test_few_ids_and_numbers() -> None:
    """Kinds of things come again and again, and two numbers are no ids."""
    torch.manual_seed(0)
    rows = torch.stack([torch.arange(8), torch.arange(8)], 1).repeat(60, 1)
    order = [rows[torch.randperm(len(rows))] for _ in range(2)]
    assert told(order, rows[:20], Plain()) == []
    floats = [torch.randn(480, 2)] * 2
    assert told(floats, floats[0][:50], Plain()) == []


@pytest.mark.parametrize("leaks", [True, False])
def test_one_long_pass(leaks: bool) -> None:
    """Of more batches than are looked at in any case; a first pass is heard to its end."""
    torch.manual_seed(0)
    table = torch.randn(140 * BATCH, 6)
    net = nn.Linear(6, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    train = table if leaks else table[200:]
    with sightline.attach(net, optimizer, on_finding=None, checks=load((page("M1"),)), budget=0.02) as guard:
        for batch in train[torch.randperm(len(train))].split(BATCH):
            optimizer.zero_grad()
            net(batch).square().mean().backward()
            optimizer.step()
        net.eval()
        with torch.no_grad():
            for batch in table[:200].split(BATCH):
                net(batch)
    found = [finding.message for finding in guard.findings if finding.code == "M1"]
    assert [one.split(" evaluated")[0] for one in found] == (["200 of 200"] if leaks else [])


class Detector(nn.Module):
    """Given a list of pictures of several sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        boxes = [self.conv(image[None]).mean((0, 2, 3)) for image in images]
        return [{"boxes": box[None]} for box in boxes] if targets is None else {"loss": torch.stack(boxes).sum()}


@pytest.mark.parametrize("leaks", [True, False])
def test_lists_of_pictures(leaks: bool) -> None:
    torch.manual_seed(0)
    images = [torch.rand(3, 8, 6 + place % 3) for place in range(120)]
    test, train = images[:24], images if leaks else images[24:]
    net = Detector()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    with sightline.attach(net, optimizer, on_finding=None, checks=load((page("M1"),)), budget=0.02) as guard:
        for _ in range(2):
            for at in range(0, len(train), 12):
                optimizer.zero_grad()
                net(train[at : at + 12], [{"boxes": torch.zeros(1, 4)}] * 12)["loss"].backward()
                optimizer.step()
            net.eval()
            with torch.no_grad():
                for at in range(0, len(test), 12):
                    net(test[at : at + 12])
            net.train()
    found = [finding.message for finding in guard.findings if finding.code == "M1"]
    assert [one.split(" evaluated")[0] for one in found] == (["24 of 24"] if leaks else [])


class Held:
    """A batch as somebody's own object."""

    def __init__(self, rows: Tensor) -> None:
        self.words, self.labels = rows, torch.zeros(len(rows), 3)


class Reads(nn.Module):
    """Sequences with their time first, or in an object."""

    def __init__(self) -> None:
        super().__init__()
        self.core, self.out = nn.GRU(3, 4), nn.Linear(4, 1)

    def forward(self, batch: Held | Tensor) -> Tensor:
        return self.out(self.core(batch.words.transpose(0, 1) if isinstance(batch, Held) else batch)[0][-1]).squeeze(-1)


@pytest.mark.parametrize("leaks", [True, False])
@pytest.mark.parametrize("held", [True, False])
def test_what_a_row_is(held: bool, leaks: bool) -> None:
    torch.manual_seed(0)
    table, net = torch.randn(240, 7, 3), Reads()
    test, train = table[:40], table if leaks else table[40:]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    with sightline.attach(net, optimizer, on_finding=None, checks=load((page("M1"),)), budget=0.02) as guard:
        for _ in range(3):
            for batch in train[torch.randperm(len(train))].split(20):
                optimizer.zero_grad()
                net(Held(batch) if held else batch.transpose(0, 1)).square().mean().backward()
                optimizer.step()
            net.eval()
            with torch.no_grad():
                net(Held(test) if held else test.transpose(0, 1))
            net.train()
    found = [finding.message for finding in guard.findings if finding.code == "M1"]
    assert [one.split(" evaluated")[0] for one in found] == (["40 of 40"] if leaks else [])
