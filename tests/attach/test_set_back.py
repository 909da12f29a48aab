"""M1 where one model is trained anew on each fold: what its weights were taught before is gone."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

import sightline
from sightline.attach.mailbox import Mailbox
from sightline.attach.onlookers.set_back import SetBack

Weights = dict[str, torch.Tensor]


def redrawn(net: nn.Module, _: Weights) -> None:
    for module in net.modules():
        if isinstance(module, nn.Linear):
            module.reset_parameters()


def codes(anew: Callable[[nn.Module, Weights], object], *, leaks: int = 0) -> list[str]:
    """Cross-validation on three folds. `leaks`: rows of each fold that are trained on."""
    torch.manual_seed(0)
    net: nn.Module = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
    rows = torch.randn(120, 16)
    first, folds = copy.deepcopy(net.state_dict()), torch.randperm(120).chunk(3)
    guard = sightline.attach(net, on_finding=None)
    for k, held in enumerate(folds):
        anew(net, first)
        train = torch.cat([*(fold for j, fold in enumerate(folds) if j != k), held[:leaks]])
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for _ in range(2):
            for at in train[torch.randperm(len(train))].split(20):
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(rows[at]), (rows[at, 0] > 0).long()).backward()
                optimizer.step()
            net.eval()
            with torch.no_grad():
                net(rows[held])
            net.train()
    guard.close()
    return [finding.code for finding in guard.findings if finding.severity != "note"]


@pytest.mark.parametrize("anew", [redrawn, nn.Module.load_state_dict])
def test_weights_that_are_set_back(anew: Callable[[nn.Module, Weights], object]) -> None:
    assert codes(anew) == []
    assert codes(anew, leaks=20) == ["M1"]


def test_weights_that_go_on() -> None:
    assert codes(lambda net, first: None) == ["M1"]
    assert codes(lambda net, first: redrawn(list(net.children())[2], first)) == ["M1"]


def test_an_average_that_is_put_in_to_judge_by() -> None:
    torch.manual_seed(0)
    net, mailbox, found = nn.Linear(16, 2), Mailbox(), list[int]()
    back, optimizer = SetBack(net, mailbox, found.append), torch.optim.SGD(net.parameters(), lr=0.1)
    for step in range(6):
        back.trains(step)
        net.weight.grad = torch.randn(2, 16)
        optimizer.step()
        back.stepped(optimizer)
        learnt = net.weight.detach().clone()
        nn.init.normal_(net.weight)
        back.judges(step + 1)
        with torch.no_grad():
            net.weight.copy_(learnt)
        mailbox.open(wait=True)
    assert found == []
    net.reset_parameters()
    back.trains(6)
    back.stepped(torch.optim.SGD(net.parameters(), lr=0.1))
    mailbox.open(wait=True)
    assert found == [6]
