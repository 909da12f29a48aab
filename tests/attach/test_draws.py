"""Monte-Carlo dropout: dropout that is on in evaluation on purpose, and evaluations that forgot to switch it off."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sightline
from sightline.guard.catalogue import load, page


class Net(nn.Module):
    def __init__(self, *, always: bool = False, norm: bool = True) -> None:
        super().__init__()
        body = [nn.Linear(6, 12), nn.BatchNorm1d(12) if norm else nn.Identity(), nn.ReLU(), nn.Dropout(0.3)]
        self.body, self.drop, self.out = nn.Sequential(*body), nn.Dropout(0.2), nn.Linear(12, 1)
        self.always = always

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.drop(self.body(x))
        return self.out(F.dropout(hidden, 0.2) if self.always else hidden)[:, 0]


def found(judge: Callable[[Net, Tensor], None], *, always: bool = False, norm: bool = True) -> list[str]:
    """T3 of a run that trains, judges and trains again, twice."""
    torch.manual_seed(0)
    net = Net(always=always, norm=norm)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    with sightline.attach(net, optimizer, on_finding=None, checks=load((page("T3"),))) as guard:
        for _ in range(2):
            net.train()
            for _ in range(3):
                optimizer.zero_grad()
                F.mse_loss(net(torch.randn(8, 6)), torch.randn(8)).backward()
                optimizer.step()
            with torch.no_grad():
                judge(net, torch.randn(24, 6))
    return [finding.message for finding in guard.findings if finding.code == "T3"]


def woken(net: Net) -> Net:
    net.eval()
    for part in net.modules():
        if isinstance(part, nn.Dropout):
            part.train()
    return net


def draws_of_each_batch(net: Net, x: Tensor) -> None:
    for batch in x.split(8):
        torch.stack([woken(net)(batch) for _ in range(10)]).std(0)


def passes_over_all(net: Net, x: Tensor) -> None:
    for _ in range(10):
        torch.cat([woken(net)(batch.clone()) for batch in x.split(8)])


def copies_in_one_batch(net: Net, x: Tensor) -> None:
    woken(net)(x.repeat(10, 1)).view(10, -1).mean(0)


def train_mode_for_draws(net: Net, x: Tensor) -> None:
    for batch in x.split(8):
        torch.stack([net(batch) for _ in range(10)]).std(0)


def dropout_called_for_draws(net: Net, x: Tensor) -> None:
    net.eval()
    train_mode_for_draws(net, x)


@pytest.mark.parametrize("judge", [draws_of_each_batch, passes_over_all, copies_in_one_batch])
def test_dropouts_that_were_woken_to_draw(judge: Callable[[Net, Tensor], None]) -> None:
    assert found(judge) == []


def test_all_other_ways_to_draw() -> None:
    assert found(train_mode_for_draws, norm=False) == []
    assert found(dropout_called_for_draws, always=True) == []


def once(net: Net, x: Tensor) -> None:
    for batch in x.split(8):
        net(batch)


def loss_and_score(net: Net, x: Tensor) -> None:
    for batch in x.split(8):
        net(batch), net(batch)


def part_left(net: Net, x: Tensor) -> None:
    net.eval()
    net.body.train()
    train_mode_for_draws(net, x)


def slept(net: Net, x: Tensor) -> None:
    once(net.eval(), x)


WRONG = {
    "forgotten": (once, {}),
    "forgotten without norms": (once, {"norm": False}),
    "asked twice": (loss_and_score, {"norm": False}),
    "batch norm awake for draws": (train_mode_for_draws, {}),
    "a part left in train mode": (part_left, {}),
    "dropouts left awake": (lambda net, x: once(woken(net), x), {}),
    "dropout that does not ask": (slept, {"always": True}),
}


@pytest.mark.parametrize("name", WRONG)
def test_dropout_that_was_left_on(name: str) -> None:
    judge, given = WRONG[name]
    assert len(found(judge, **given)) == 1


def test_evaluation_mode() -> None:
    assert found(slept) == []
