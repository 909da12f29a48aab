"""What a schedule will do, and where it stood, told by the rates of an optimizer that was saved without it."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import SGD, Optimizer, lr_scheduler

from sightline.attach.foreseen import lowest, rates_at
from sightline.attach.script.checkpoints.places import restarted

MADE: list[Callable[[Optimizer], Any]] = [
    lambda opt: lr_scheduler.LambdaLR(opt, lambda step: 1 / (1 + step)),
    lambda opt: lr_scheduler.StepLR(opt, 7, 0.3),
    lambda opt: lr_scheduler.MultiStepLR(opt, [5, 20]),
    lambda opt: lr_scheduler.ExponentialLR(opt, 0.97),
    lambda opt: lr_scheduler.LinearLR(opt, 0.1, total_iters=20),
    lambda opt: lr_scheduler.PolynomialLR(opt, 40, power=2.0),
    lambda opt: lr_scheduler.CosineAnnealingLR(opt, 40),
    lambda opt: lr_scheduler.OneCycleLR(opt, [0.1, 0.2], total_steps=40),
    lambda opt: lr_scheduler.SequentialLR(
        opt, [lr_scheduler.LinearLR(opt, 0.1, total_iters=9), lr_scheduler.CosineAnnealingLR(opt, 30)], [9]
    ),
]


def optimizer() -> Optimizer:
    one, other = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    return SGD([{"params": [one]}, {"params": [other], "lr": 0.02}], lr=0.1, momentum=0.9)


def half_wave(over: int, warm: int) -> Callable[[int], float]:
    def rule(step: int) -> float:
        return step / warm if step < warm else 0.5 + 0.5 * math.cos(math.pi * (step - warm) / (over - warm))

    return rule


def held(step: int) -> float:
    assert step < 10
    return 1 - step / 10


@pytest.mark.parametrize(
    ("rule", "end"),
    [
        (half_wave(192, 30), 192),  # and up again behind it
        (half_wave(100_000, 3000), 100_000),
        (lambda step: max(0.0, 1 - step / 5000), 5000),
        (lambda step: max(0.1, 1 - step / 1000), 900),
        (lambda step: 0.95**step, None),
        (lambda step: (step + 1) ** -0.5, None),
        (lambda step: 0.1 ** (step // 30), None),
        (lambda step: 1.0, None),
        (lambda step: [1.0, 0.5][step], None),
        (held, None),
    ],
    ids=["wave", "long wave", "line", "floor", "power", "root", "stairs", "constant", "table", "asserted"],
)
def test_where_a_rule_comes_down(rule: Callable[[int], float], end: int | None) -> None:
    opt = optimizer()
    schedule, before = lr_scheduler.LambdaLR(opt, rule), [group["lr"] for group in opt.param_groups]
    found = lowest(schedule)
    assert found is None if end is None else found == pytest.approx(end, rel=0.01)
    assert schedule.last_epoch == 0 and [group["lr"] for group in opt.param_groups] == before


def test_a_rule_that_tells_is_not_asked(capsys: pytest.CaptureFixture[str]) -> None:
    schedule = lr_scheduler.LambdaLR(optimizer(), lambda step: print(step) or max(0.0, 1 - step / 50))
    capsys.readouterr()
    assert lowest(schedule) is None and not capsys.readouterr().out


def test_a_rule_that_draws_numbers_draws_none_of_the_run() -> None:
    schedule = lr_scheduler.LambdaLR(optimizer(), lambda step: random.random() / (step + 1))
    state = random.getstate()
    lowest(schedule)
    assert random.getstate() == state


@pytest.mark.parametrize("make", MADE)
def test_rates_are_those_that_the_schedule_sets(make: Callable[[Optimizer], Any]) -> None:
    opt = optimizer()
    schedule = make(opt)
    for place in range(30):
        groups = [dict(group) for group in opt.param_groups]
        assert rates_at(schedule, place) == pytest.approx([group["lr"] for group in groups])
        assert groups == [dict(group) for group in opt.param_groups] and schedule.last_epoch == place
        opt.step()
        schedule.step()


def test_what_depends_on_more_than_its_place_is_not_asked() -> None:
    opt, calls = optimizer(), []

    def counts(step: int) -> float:
        calls.append(step)
        nonlocal seen
        seen += 1
        return 1.0 / seen

    seen = 0
    schedule, asked = lr_scheduler.LambdaLR(opt, counts), len(calls)
    assert rates_at(schedule, 5) is None and len(calls) == asked
    assert rates_at(lr_scheduler.CosineAnnealingWarmRestarts(opt, 5), 3) is None
    assert rates_at(lr_scheduler.MultiplicativeLR(opt, lambda _: 0.9), 3) is None


@pytest.mark.parametrize("make", MADE)
@pytest.mark.parametrize("at", [15, 60])
def test_a_plan_that_begins_again(make: Callable[[Optimizer], Any], at: int) -> None:
    """It does amid its plan; where that was over, or where nobody counted to its place, a new one may begin."""
    opt = optimizer()
    schedule, over = make(opt), at == 60
    for _ in range(at if not isinstance(schedule, lr_scheduler.OneCycleLR) else min(at, 39)):
        opt.step()
        schedule.step()
    kept = {"groups": [{k: v for k, v in group.items() if k != "params"} for group in opt.param_groups]}
    opt = optimizer()
    fresh = make(opt)
    endless = isinstance(fresh, lr_scheduler.LambdaLR | lr_scheduler.StepLR | lr_scheduler.ExponentialLR)
    found = restarted(kept, opt, (schedule.last_epoch, 3))
    assert (found.place if found is not None else 0) == (0 if over and not endless else at)
    assert restarted(kept, opt, (at + 5,)) is None or isinstance(fresh, lr_scheduler.StepLR | lr_scheduler.MultiStepLR)


@pytest.mark.parametrize("make", MADE)
def test_what_a_plan_that_begins_again_does_to_the_rate(make: Callable[[Optimizer], Any]) -> None:
    """Told when it is another one than is due: never where each is the same part of the one before."""
    opt = optimizer()
    schedule = make(opt)
    for _ in range(15):
        opt.step()
        schedule.step()
    kept = {"groups": [{k: v for k, v in group.items() if k != "params"} for group in opt.param_groups]}
    told = []
    for whole in (True, False):
        again = optimizer()
        fresh = make(again)
        run = restarted(kept, again, (15,))
        assert run is not None
        for group, old in zip(again.param_groups, kept["groups"], strict=True):
            group["lr"] = old["lr"]
        if whole:
            fresh.load_state_dict(schedule.state_dict())
            assert run.tells(again) is None
            continue
        for _ in range(24):
            told.append(run.tells(again))
            again.step()
            fresh.step()
    assert any(told) != isinstance(schedule, lr_scheduler.ExponentialLR) and None not in told
