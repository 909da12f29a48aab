"""T6 through the door: the steps of an epoch, rounded as the loop takes them or otherwise."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as plans
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler
from torch.optim.swa_utils import SWALR
from torch.utils.data import DataLoader, TensorDataset

import sightline
from sightline.guard.catalogue import load, page

pytestmark = pytest.mark.slow  # many settings of rules that quick tests prove in one

EPOCHS, EACH = 6, 4
T6 = load((page("T6"),))
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


def told(
    make: Callable[[torch.optim.Optimizer], Any], when: str, *, epochs: int, limit: int = 0, rows: int = 48
) -> list[str]:
    """What T6 says of epochs of 12 batches. `when`: the schedule is stepped: batch, epoch, never; `limit`: steps."""
    torch.manual_seed(0)
    net = nn.Linear(5, 3)
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    x = torch.randn(rows, 5)
    loader, sched = DataLoader(TensorDataset(x, x[:, :3].argmax(1)), batch_size=4), make(opt)

    def fit() -> None:
        count = 0
        for _ in range(epochs):
            guard.loading.epoch(loader)
            for inputs, labels in loader:
                opt.zero_grad()
                nn.functional.cross_entropy(net(inputs), labels).backward()
                opt.step()
                count += 1
                if when == "batch":
                    sched.step()
                if count == limit:
                    return
            if when == "epoch":
                sched.step()

    with sightline.attach(net, opt, on_finding=None, checks=T6) as guard:
        fit()
    return [f.message for f in guard.findings]


NEVER: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "stairs": lambda o: plans.StepLR(o, 10),
    "cosine": lambda o: plans.CosineAnnealingLR(o, 36),
    "restarts": lambda o: plans.CosineAnnealingWarmRestarts(o, 4),
    "parts": lambda o: plans.SequentialLR(o, [plans.LinearLR(o), plans.ExponentialLR(o, 0.9)], [2]),
}


@pytest.mark.parametrize("name", NEVER)
def test_a_schedule_that_is_never_stepped(name: str) -> None:
    (message,) = told(NEVER[name], "never", epochs=2)
    assert "scheduler.step() was never called" in message


def test_a_schedule_whose_turn_has_not_come() -> None:
    assert told(NEVER["stairs"], "epoch", epochs=2) == []
    assert told(NEVER["stairs"], "epoch", epochs=3, limit=10) == []  # a trial run that ends in the first epoch


class Own(plans.LRScheduler):
    """It counts for itself, and rests at first."""

    def step(self, epoch: Any = None) -> None:
        self.taken = getattr(self, "taken", -1) + 1


def test_a_schedule_that_may_rest() -> None:
    assert told(Own, "batch", epochs=3) == []
    assert told(lambda o: SWALR(o, 0.05), "never", epochs=3) == []
    assert told(plans.ReduceLROnPlateau, "never", epochs=3) == []


def low(n: float) -> float:
    return 0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, n)))


@pytest.mark.parametrize("name", ["wave", "stairs"])
def test_a_plan_in_epochs(name: str) -> None:
    def plan(each: int) -> Callable[[torch.optim.Optimizer], Any]:
        if name == "stairs":
            return lambda o: plans.MultiStepLR(o, [4 * each - each // 2, 6 * each])
        return lambda o: LambdaLR(o, lambda n: low(n / (8 * each)))

    (message,) = told(plan(1), "batch", epochs=8)
    assert "planned in epochs" in message
    assert told(plan(1), "epoch", epochs=8) == told(plan(12), "batch", epochs=8) == []


def test_a_plan_in_samples() -> None:
    def linear(total: int) -> Callable[[torch.optim.Optimizer], Any]:
        return lambda o: plans.SequentialLR(o, [plans.LinearLR(o), plans.LinearLR(o, 1.0, 0.0, total - 5)], [5])

    (message,) = told(linear(3 * 47), "batch", epochs=3, rows=47)
    assert "planned in samples (141)" in message
    assert told(linear(36), "batch", epochs=3, rows=47) == []


def test_a_warm_up_that_is_longer_than_the_plan() -> None:
    def rule(n: int, *, num_warmup_steps: int, num_training_steps: int) -> float:
        left = (num_training_steps - n) / max(1, num_training_steps - num_warmup_steps)
        return n / num_warmup_steps if n < num_warmup_steps else max(0.0, left)

    def linear(warm: int) -> Callable[[torch.optim.Optimizer], Any]:
        return lambda o: LambdaLR(o, partial(rule, num_warmup_steps=warm, num_training_steps=36))

    (message,) = told(linear(80), "batch", epochs=3)
    assert "its warm-up takes 80" in message
    assert told(linear(4), "batch", epochs=3) == []
