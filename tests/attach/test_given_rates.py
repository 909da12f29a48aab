"""Rates that the groups of an optimizer were given, and what becomes of them from the first step on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, CyclicLR, LambdaLR, LRScheduler, OneCycleLR
from torch.optim.swa_utils import SWALR

import sightline
from sightline.guard.catalogue import load, page

pytestmark = pytest.mark.usefixtures("origins")

STEPS, RATES = 24, (1e-3, 1e-2)
Tick = Callable[[int], Any]


class Slope(LRScheduler):
    """Falls on a straight line. `own`: each group from its own rate."""

    def __init__(self, optimizer: Optimizer, *, own: bool) -> None:
        self.own = own
        super().__init__(optimizer)

    def get_lr(self) -> list[float | torch.Tensor]:
        bases = self.base_lrs if self.own else [max(map(float, self.base_lrs))] * len(self.base_lrs)
        return [float(base) * (1 - self.last_epoch / (2 * STEPS)) for base in bases]


def findings(schedule: Callable[[Optimizer], Tick], *rates: float, frozen: bool = False) -> list[str]:
    torch.manual_seed(0)
    first, last = nn.Linear(6, 16), nn.Linear(16, 3)
    model = nn.Sequential(first, nn.ReLU(), last)
    groups = [
        {"params": part.parameters(), "lr": rate} for part, rate in zip((first, last), rates or RATES, strict=True)
    ]
    first.requires_grad_(not frozen)
    opt = torch.optim.AdamW(groups, lr=1e-4)
    tick = schedule(opt)
    guard = sightline.attach(model, opt, on_finding=None, budget=1.0, checks=load((page("T6"),)))
    for number in range(STEPS):
        opt.zero_grad()
        model(torch.randn(8, 6)).square().mean().backward()
        opt.step()
        tick(number)
    guard.close()
    return [one.message for one in guard.findings]


def stepped(schedule: LRScheduler) -> Tick:
    return lambda number: schedule.step()


def by_hand(opt: Optimizer, *, own: bool) -> Tick:
    first = [group["lr"] if own else max(RATES) for group in opt.param_groups]

    def tick(number: int) -> None:
        for group, rate in zip(opt.param_groups, first, strict=True):
            group["lr"] = rate * (1 - number / (2 * STEPS))

    tick(0)
    return tick


def levelled_by_hand(opt: Optimizer) -> Tick:
    for group in opt.param_groups:
        group["lr"] = 1e-2
    return stepped(CosineAnnealingLR(opt, STEPS))


@pytest.mark.parametrize(
    "schedule",
    [
        lambda opt: stepped(OneCycleLR(opt, max(RATES), total_steps=STEPS + 1)),
        lambda opt: stepped(CyclicLR(opt, min(RATES), max(RATES), step_size_up=6, cycle_momentum=False)),
        lambda opt: stepped(Slope(opt, own=False)),
        lambda opt: by_hand(opt, own=False),
    ],
    ids=["one cycle", "cycles", "a rule of one's own", "by hand"],
)
def test_one_rate_in_the_place_of_several(schedule: Callable[[Optimizer], Tick]) -> None:
    (message,) = findings(schedule)
    assert "given rates of their own (0.001, 0.01)" in message and "one " in message
    assert findings(schedule, 1e-2, 1e-2) == []
    assert findings(schedule, 0.0, 1e-2) == []
    assert findings(schedule, frozen=True) == []


@pytest.mark.parametrize(
    "schedule",
    [
        lambda opt: stepped(OneCycleLR(opt, [*RATES], total_steps=STEPS + 1)),
        lambda opt: stepped(CyclicLR(opt, [1e-4, 1e-3], [*RATES], step_size_up=6, cycle_momentum=False)),
        lambda opt: stepped(Slope(opt, own=True)),
        lambda opt: stepped(LambdaLR(opt, lambda n: min(1.0, n / 6))),
        lambda opt: stepped(SWALR(opt, 5e-3, anneal_epochs=4)),
        lambda opt: by_hand(opt, own=True),
        levelled_by_hand,
        lambda opt: lambda number: None,
    ],
    ids=["one cycle", "cycles", "a rule", "warm-up from 0", "averaging", "by hand", "set before", "none"],
)
def test_rates_that_stay_apart(schedule: Callable[[Optimizer], Tick]) -> None:
    assert findings(schedule) == []
