"""T6 through the door: the steps of an epoch, rounded as the loop takes them or otherwise."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler
from torch.utils.data import DataLoader, TensorDataset

import sightline

EPOCHS, EACH = 6, 4
PLANS = {"floor": math.floor, "ceil": math.ceil}


def codes(plan: str, *, last: bool, batches: int = 15, limit: int | None = None, cosine: bool = False) -> list[str]:
    """Train for as long as planned. `last`: the smaller group of batches at the end of an epoch makes a step too."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    x = torch.randn(4 * batches, 5)
    loader = DataLoader(TensorDataset(x, x[:, :3].argmax(1)), batch_size=4, shuffle=True)
    total = limit or EPOCHS * PLANS[plan](len(loader) / EACH)
    sched: LRScheduler = LambdaLR(opt, lambda n: max(0.0, 1 - n / total))
    if cosine:
        sched = CosineAnnealingLR(opt, total)
    with sightline.attach(net, opt, on_finding=None, budget=1.0) as guard:
        count = 0
        for _ in range(100 if limit else EPOCHS):
            guard.loading.epoch(loader)
            for place, (inputs, labels) in enumerate(loader):
                (nn.functional.cross_entropy(net(inputs), labels) / EACH).backward()
                if (place + 1) % EACH == 0 or (last and place + 1 == len(loader)):
                    opt.step()
                    opt.zero_grad()
                    sched.step()
                    count += 1
                if count == total:
                    break
            opt.zero_grad()
            if count == total:
                break
    return [f.code for f in guard.findings]


@pytest.mark.parametrize("cosine", [False, True])
def test_the_last_epochs_are_cut_off(cosine: bool) -> None:
    assert codes("floor", last=True, batches=15, cosine=cosine) == ["T6"]


def test_the_rate_never_comes_to_its_end() -> None:
    assert codes("ceil", last=False, cosine=True) == ["T6"]


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize(
    "how",
    [
        {"plan": "ceil", "last": True},
        {"plan": "floor", "last": False},
        {"plan": "floor", "last": True, "batches": 16},
        {"plan": "ceil", "last": True, "limit": 20},
        {"plan": "ceil", "last": True, "limit": 22},
    ],
    ids=str,
)
def test_plans_that_fit(how: dict, cosine: bool) -> None:
    assert codes(**how, cosine=cosine) == []


def planned_in(unit: str, *, kept: bool) -> list[str]:
    """A loop in a function, whose schedule is gone when it returns, unless it is `kept`."""
    net, gone = nn.Linear(5, 3), []

    def fit() -> None:
        opt = torch.optim.SGD(net.parameters(), lr=0.1)
        total = {"steps": 20, "micro-batches": 80}[unit]
        sched = LambdaLR(opt, lambda n: 0.5 * (1 + math.cos(math.pi * min(1.0, n / total))))
        gone.append(sched if kept else None)
        for place in range(80):
            (net(torch.randn(4, 5)).square().mean() / EACH).backward()
            if (place + 1) % EACH == 0:
                opt.step()
                sched.step()
                opt.zero_grad()

    with sightline.attach(net, on_finding=None, budget=1.0) as guard:
        fit()
    return [f.code for f in guard.findings]


@pytest.mark.parametrize("kept", [True, False])
def test_a_schedule_that_is_gone_when_the_run_is_over(kept: bool) -> None:
    torch.manual_seed(0)
    assert planned_in("micro-batches", kept=kept) == ["T6"]
    assert planned_in("steps", kept=kept) == []
