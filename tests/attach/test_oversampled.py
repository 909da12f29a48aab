"""Rows that were oversampled before the split: told while training goes on, by the evaluation that has them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sightline
from sightline.guard.catalogue import load, page


@torch.no_grad()
def judged(net: nn.Module, rows: Tensor) -> None:
    net.eval()
    net(rows[:, :-1])
    net.train()


@pytest.mark.parametrize("leaks", [True, False], ids=["before the split", "behind it"])
def test_oversampled_rows(leaks: bool) -> None:
    torch.manual_seed(0)
    table = torch.randn(1600, 7)
    seldom = torch.arange(1600)[:60]
    more = torch.cat([torch.arange(1600), seldom[torch.randint(60, (1000,))]])
    order = more[torch.randperm(len(more))]
    train, test = order[650:], order[:650]
    if not leaks:
        place = torch.randperm(1600)
        test, train = place[:400], torch.cat([place[400:], place[place < 60][:40].repeat(20)])
        train = train[~torch.isin(train, test)]
    net, later = nn.Linear(6, 1), torch.randn(900, 7)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    with sightline.attach(net, optimizer, on_finding=None, checks=load((page("M1"),))) as guard:
        for _ in range(3):
            for batch in table[train[torch.randperm(len(train))]].split(24):
                optimizer.zero_grad()
                F.mse_loss(net(batch[:, :-1]), batch[:, -1:]).backward()
                optimizer.step()
            judged(net, table[test])
            early = [finding.message for finding in guard.findings if finding.code == "M1"]
        judged(net, later)
    assert [finding.message for finding in guard.findings if finding.code == "M1"] == early
    assert len(early) == leaks
    for message in early:
        known, of = (int(word) for word in message.split()[:3:2])
        assert of == 650 and 200 < known < 300  # of the evaluation alone, repetitions counted: 60 different rows


@pytest.mark.parametrize("leaks", [True, False], ids=["before the split", "behind it"])
def test_classes_made_even(leaks: bool) -> None:
    """Some classes are only a little smaller than the largest, so that many rows are there twice."""
    draw = torch.Generator().manual_seed(0)
    classes = torch.arange(4).repeat_interleave(torch.tensor([340, 290, 215, 55]))
    table = torch.randn(900, 7, generator=draw) + classes[:, None]

    def even(rows: Tensor) -> Tensor:
        parts = [rows[classes[rows] == one] for one in range(4)]
        most = max(map(len, parts))
        more = [part[torch.randint(len(part), (most - len(part),), generator=draw)] for part in parts]
        every = torch.cat([*parts, *more])
        return every[torch.randperm(len(every), generator=draw)]

    order = torch.randperm(900, generator=draw)
    every = even(order) if leaks else order
    test, train = every[: len(every) // 5], every[len(every) // 5 :]
    train = train if leaks else even(train)
    net = nn.Linear(7, 4)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    with sightline.attach(net, optimizer, on_finding=None, checks=load((page("M1"),))) as guard:
        for _ in range(3):
            for rows in train[torch.randperm(len(train), generator=draw)].split(24):
                optimizer.zero_grad()
                F.cross_entropy(net(table[rows]), classes[rows]).backward()
                optimizer.step()
            net.eval()
            with torch.no_grad():
                net(table[test])
            net.train()
    assert [finding.code for finding in guard.findings] == ["M1"] * leaks
