"""T6 through the door: schedules of all kinds, stepped rightly and wrongly."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as sched

import sightline
from sightline.attach.onlookers.schedule import schedules_of

pytestmark = pytest.mark.slow  # many settings of rules that quick tests prove in one

EPOCHS, BATCHES = 4, 10
Make = Callable[[torch.optim.Optimizer], Any]


def drive(
    make: Make | None,
    when: str = "step",
    *,
    micro: int = 1,
    scaler: torch.amp.GradScaler | None = None,
    stop: int | None = None,
    by_hand: Callable[[int], float] | None = None,
    momentum: float = 0.9,
    budget: float = 0.02,
) -> list[str]:
    """A stranger's loop; `when` the schedule advances: step, micro, epoch, early, never, or anew in every epoch."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 3))
    opt = torch.optim.SGD(net.parameters(), lr=0.05, momentum=momentum)
    plan = make(opt) if make and when != "anew" else None
    count = 0
    with sightline.attach(net, opt, on_finding=None, budget=budget) as guard:
        for _ in range(EPOCHS):
            if when == "anew" and make:
                plan = make(opt)
            for number in range(BATCHES * micro):
                if by_hand:
                    opt.param_groups[0]["lr"] = by_hand(count)
                x = torch.randn(8, 6)
                loss = nn.functional.cross_entropy(net(x), x[:, :3].argmax(1)) / micro
                (scaler.scale(loss) if scaler else loss).backward()
                if when == "micro" and plan:
                    plan.step()
                if (number + 1) % micro:
                    continue
                if when == "early" and plan:
                    plan.step()
                if scaler:
                    scaler.step(opt)
                    scaler.update()
                else:
                    opt.step()
                opt.zero_grad()
                count += 1
                if when in ("step", "anew") and plan:
                    plan.step()
                if count == stop:
                    return _codes(guard)
            if when == "epoch" and plan:
                plan.step()
    return _codes(guard)


def _codes(guard: Any) -> list[str]:
    guard.close()
    return [f.code for f in guard.findings]


def warm_up(total: int) -> Make:
    def rate(n: int) -> float:
        return n / 5 if n < 5 else max(0.0, (total - n) / (total - 5))

    return lambda opt: sched.LambdaLR(opt, rate)


def factor(rule: Callable[[int], float]) -> Make:
    return lambda opt: sched.LambdaLR(opt, rule)


def cosine(total: int, warm: int = 0) -> Make:
    """As written by hand: nothing but the closure knows how long it is."""
    return factor(lambda n: n / warm if n < warm else 0.5 * (1 + math.cos(math.pi * (n - warm) / (total - warm))))


def chained(opt: torch.optim.Optimizer) -> Any:
    first = sched.LinearLR(opt, start_factor=0.1, total_iters=5)
    then = sched.CosineAnnealingLR(opt, T_max=EPOCHS * BATCHES - 5)
    return sched.SequentialLR(opt, [first, then], milestones=[5])


def waving(opt: torch.optim.Optimizer) -> Any:
    """The same, planned in epochs: two of a warm-up, and the wave."""
    first, then = sched.LinearLR(opt, 0.1, total_iters=2), sched.CosineAnnealingLR(opt, T_max=EPOCHS)
    return sched.SequentialLR(opt, [first, then], milestones=[2])


def floored(total: int) -> Callable[[int], float]:
    """A loop that sets the rate itself: a short warm-up, and half a wave down to a tenth."""
    return lambda n: 0.05 * (n + 1) / 3 if n < 3 else 0.005 + 0.0225 * (1 + math.cos(math.pi * (n - 3) / (total - 3)))


ALL = EPOCHS * BATCHES
RIGHT: dict[str, dict[str, Any]] = {
    "no schedule": {"make": None},
    "cosine a step": {"make": lambda o: sched.CosineAnnealingLR(o, ALL)},
    "cosine an epoch": {"make": lambda o: sched.CosineAnnealingLR(o, EPOCHS), "when": "epoch"},
    "step an epoch": {"make": lambda o: sched.StepLR(o, 2), "when": "epoch"},
    "one cycle": {"make": lambda o: sched.OneCycleLR(o, 0.1, total_steps=ALL)},
    "warm-up and decay": {"make": warm_up(ALL)},
    "warm-up then cosine": {"make": chained},
    "warm-up then cosine, to a floor above its start": {
        "make": lambda o: sched.SequentialLR(
            o, [sched.LinearLR(o, 0.01, total_iters=5), sched.CosineAnnealingLR(o, ALL - 9, eta_min=0.01)], [5]
        )
    },
    "warm-up then cosine, an epoch": {"make": waving, "when": "epoch"},
    "warm restarts": {"make": lambda o: sched.CosineAnnealingWarmRestarts(o, BATCHES)},
    "cyclic": {"make": lambda o: sched.CyclicLR(o, 0.01, 0.1, step_size_up=5)},
    "exponential": {"make": lambda o: sched.ExponentialLR(o, 0.9)},
    "accumulation": {"make": lambda o: sched.CosineAnnealingLR(o, ALL), "micro": 2},
    "micro-batches throughout": {"make": lambda o: sched.CosineAnnealingLR(o, 2 * ALL), "micro": 2, "when": "micro"},
    "by a closure": {"make": cosine(ALL, 5)},
    "by a closure, in epochs": {"make": factor(lambda epoch: 1 - epoch / EPOCHS), "when": "epoch"},
    "decay by a closure, in epochs": {"make": factor(lambda epoch: 0.95**epoch), "when": "epoch"},
    "slow decay": {"make": factor(lambda n: 0.9999**n)},
    "inverse root": {"make": factor(lambda n: min((n + 1) ** -0.5, (n + 1) * 8**-1.5))},
    "a run that is short for its warm-up": {"make": factor(lambda n: min(1.0, (n + 1) / 100))},
    "a run that is short for its warm-up in epochs": {
        "make": factor(lambda e: min(1.0, (e + 1) / 10)),
        "when": "epoch",
    },
    "a run that is short for its schedule": {"make": cosine(1000, 5)},
    "stopped early, by a closure": {"make": cosine(ALL, 5), "stop": 15},
    "stopped early": {"make": lambda o: sched.OneCycleLR(o, 0.1, total_steps=ALL), "stop": 15},
    "stopped early in epochs": {"make": lambda o: sched.CosineAnnealingLR(o, 100), "stop": 25, "when": "epoch"},
    "skipped first steps": {
        "make": lambda o: sched.CosineAnnealingLR(o, ALL),
        "scaler": torch.amp.GradScaler("cpu", init_scale=2.0**127),
    },
    "by hand": {"make": None, "by_hand": lambda n: 0.05 * min(1.0, (n + 1) / 8) * 0.5 * (1 + math.cos(n / ALL * 3.14))},
    "by hand, in steps": {"make": None, "by_hand": lambda n: 0.05 * 0.1 ** (n // 15)},
    "by hand, with a floor and accumulation": {"make": None, "by_hand": floored(ALL), "micro": 4},
    "by hand, stopped early": {"make": None, "by_hand": floored(ALL), "micro": 2, "stop": 15},
    "by hand, a run that is short for it": {"make": None, "by_hand": floored(10 * ALL), "micro": 2},
    "plateau": {"make": None, "by_hand": lambda n: 0.05 if n < 20 else 0.005},
}


@pytest.mark.filterwarnings("ignore:Detected call of")
@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("budget", [pytest.param(0.02, marks=pytest.mark.slow), 1.0])  # 1.0 looks at every step
def test_right(name: str, budget: float) -> None:
    assert drive(**RIGHT[name], budget=budget) == []


WRONG: dict[str, dict[str, Any]] = {
    "planned for one epoch": {"make": warm_up(BATCHES)},
    "every micro-batch": {"make": warm_up(ALL), "micro": 4, "when": "micro"},
    "cosine planned in epochs": {"make": lambda o: sched.CosineAnnealingLR(o, EPOCHS)},
    "cosine every micro-batch": {"make": lambda o: sched.CosineAnnealingLR(o, ALL), "micro": 4, "when": "micro"},
    "warm-up then cosine, planned in epochs": {"make": waving},
    "one cycle stepped an epoch": {"make": lambda o: sched.OneCycleLR(o, 0.1, total_steps=ALL), "when": "epoch"},
    "never stepped": {"make": lambda o: sched.CosineAnnealingLR(o, ALL), "when": "never"},
    "planned in micro-batches": {"make": lambda o: sched.CosineAnnealingLR(o, 4 * ALL), "micro": 4},
    "anew in every epoch": {"make": warm_up(ALL), "when": "anew"},
    "a warm-up of factors, anew in every epoch": {
        "make": lambda o: sched.LinearLR(o, 0.01, total_iters=6),
        "when": "anew",
    },
    "cosine anew in every epoch": {"make": lambda o: sched.CosineAnnealingLR(o, ALL), "when": "anew"},
    "warm-up by hand, in every epoch": {"make": None, "by_hand": lambda n: 0.05 * min(1.0, (n % BATCHES + 1) / 8)},
    "a closure for one epoch": {
        "make": factor(lambda n: max(0.0, 0.5 + 0.5 * math.cos(math.pi * min(1, n / BATCHES))))
    },
    "below zero": {"make": factor(lambda n: 1 - n / BATCHES)},
    "a closure in steps, stepped an epoch": {"make": factor(lambda n: 1 - n / ALL), "when": "epoch"},
    "a cosine in steps, stepped an epoch": {"make": cosine(ALL), "when": "epoch"},
    "a closure in micro-batches": {"make": cosine(4 * ALL, 5), "micro": 4},
    "by hand, in micro-batches": {"make": None, "by_hand": floored(4 * ALL), "micro": 4},
    "a line by hand, in micro-batches": {"make": None, "by_hand": lambda n: 0.05 * (1 - n / (3 * ALL)), "micro": 3},
    "a line in micro-batches": {"make": warm_up(4 * ALL), "micro": 4},
    "a warm-up in steps, stepped an epoch": {"make": factor(lambda n: min(1.0, (n + 1) / 20)), "when": "epoch"},
    "before the optimizer": {"make": lambda o: sched.CosineAnnealingLR(o, ALL), "when": "early"},
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.filterwarnings("ignore:Detected call of")
def test_wrong(name: str) -> None:
    assert drive(**WRONG[name]) == ["T6"]


def test_a_schedule_that_was_made_for_a_wrapper_is_found() -> None:
    """So it is in every Trainer of transformers: accelerate's wrapper steps the optimizer inside."""
    from accelerate import Accelerator

    inner, other = (torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1) for _ in range(2))
    plan = sched.LambdaLR(Accelerator(cpu=True).prepare_optimizer(inner), lambda n: 0.9**n)
    apart = sched.LambdaLR(other, lambda n: 0.9**n)
    assert schedules_of(inner) == [plan] and schedules_of(other) == [apart]


def in_turn(make: Make | None, *, epochs: int = 4, fresh: bool = False) -> list[Any]:
    """An optimizer and its schedule for each epoch. `fresh`: the model begins anew too, as in a cross-validation."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 3))
    start = {name: value.clone() for name, value in net.state_dict().items()}
    with sightline.attach(net, on_finding=None) as guard:
        for _ in range(epochs):
            if fresh:
                net.load_state_dict(start)
            opt = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
            plan = make(opt) if make else None
            for _ in range(BATCHES):
                x = torch.randn(8, 6)
                opt.zero_grad()
                nn.functional.cross_entropy(net(x), x[:, :3].argmax(1)).backward()
                opt.step()
                if plan:
                    plan.step()
    return [f for f in guard.findings if f.code == "T6"]


LINEAR: dict[str, Make] = {
    "linear": lambda o: sched.LambdaLR(o, lambda n: max(0.0, 1 - n / (EPOCHS * BATCHES))),
    "cosine": lambda o: sched.CosineAnnealingLR(o, EPOCHS * BATCHES),
    "warm-up": lambda o: sched.LambdaLR(o, lambda n: min(1.0, (n + 1) / 25)),
}


@pytest.mark.parametrize("name", LINEAR)
def test_an_optimizer_with_its_schedule_for_each_epoch(name: str) -> None:
    (found,) = in_turn(LINEAR[name])
    assert "the optimizer and its schedule are made anew" in found.message and f"every {BATCHES} steps" in found.message


def test_optimizers_in_turn_that_are_meant() -> None:
    """Rounds at one rate; folds whose schedules are over; a second stage."""
    assert in_turn(None) == []
    assert in_turn(lambda o: sched.CosineAnnealingLR(o, BATCHES), fresh=True) == []
    assert in_turn(lambda o: sched.LambdaLR(o, lambda n: max(0.0, 1 - n / BATCHES)), fresh=True) == []
    assert in_turn(LINEAR["linear"], epochs=2) == []
