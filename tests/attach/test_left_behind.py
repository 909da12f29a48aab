"""Schedules whose optimizer was made anew: the rate of the one that steps stays where it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LinearLR, LRScheduler

from sightline.attach.onlookers.schedule import Schedules
from sightline.attach.script.watch import Models
from sightline.guard.check import Finding

Made = tuple[Optimizer, LRScheduler]


def run(model: nn.Module, optimizer: Optimizer, each: Callable[[], None]) -> list[str]:
    found, problems = list[Finding](), list[str]()
    models = Models(1.0, found.append, problems.append)
    models.attach(model, [optimizer], blind=False)
    for _ in range(24):
        optimizer.zero_grad()
        model(torch.randn(4, 4)).square().mean().backward()
        optimizer.step()
        each()
    models.close_all(whole=True)
    assert not problems
    return [one.message for one in found if one.code == "T6"]


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))


def scheduled(parameters: object) -> Made:
    optimizer = SGD(parameters, lr=0.01)  # type: ignore[arg-type]
    return optimizer, LinearLR(optimizer, 1.0, 0.1, total_iters=24)


@pytest.mark.parametrize("whole", [True, False])
def test_the_optimizer_was_made_anew(model: nn.Module, whole: bool) -> None:
    old, schedule = scheduled((model if whole else model[1]).parameters())  # type: ignore[index]
    (message,) = run(model, SGD(model.parameters(), lr=0.01), schedule.step)
    assert "another one replaced" in message and "stays at 0.01" in message
    assert old.param_groups[0]["lr"] < 0.01


def its_own(model: nn.Module) -> tuple[Optimizer, Callable[[], None]]:
    optimizer, schedule = scheduled(model.parameters())
    return optimizer, schedule.step


def nobody_calls_the_old_one(model: nn.Module) -> tuple[Optimizer, Callable[[], None]]:
    _, schedule = scheduled(model.parameters())
    return SGD(model.parameters(), lr=0.01), schedule.get_last_lr  # type: ignore[return-value]


def of_other_parameters(model: nn.Module) -> tuple[Optimizer, Callable[[], None]]:
    _, schedule = scheduled(nn.Linear(2, 2).parameters())
    return SGD(model.parameters(), lr=0.01), schedule.step


def the_rate_is_copied(model: nn.Module) -> tuple[Optimizer, Callable[[], None]]:
    _, schedule = scheduled(model.parameters())
    optimizer = SGD(model.parameters(), lr=0.01)

    def each() -> None:
        schedule.step()
        optimizer.param_groups[0]["lr"] = schedule.get_last_lr()[0]

    return optimizer, each


def both_step(model: nn.Module) -> tuple[Optimizer, Callable[[], None]]:
    other, schedule = scheduled(model.parameters())

    def each() -> None:
        model(torch.randn(4, 4)).square().mean().backward()
        other.step()
        schedule.step()

    return SGD(model.parameters(), lr=0.02), each


def a_wrapper(model: nn.Module) -> tuple[Optimizer, Callable[[], None]]:
    inner = SGD(model.parameters(), lr=0.01)
    outer = SGD(model.parameters(), lr=0.01)
    outer.param_groups = inner.param_groups
    schedule = LinearLR(outer, 1.0, 0.1, total_iters=24)
    return inner, schedule.step


def test_a_rate_that_is_as_it_began_did_not_rest_meanwhile(model: nn.Module) -> None:
    """Else the guard would sleep through the next warm-up, and take its rates for the one before it."""
    optimizer, models = SGD(model.parameters(), lr=0.01), Models(1.0, lambda _: None, lambda _: None)
    models.attach(model, [optimizer], blind=False)
    (schedules,) = (one for one in models.live[0].recorder.onlookers.all if isinstance(one, Schedules))
    rests = []
    for rate in (0.01, 0.01, 0.03, 0.01):
        optimizer.param_groups[0]["lr"] = rate
        model(torch.randn(4, 4)).square().mean().backward()
        optimizer.step()
        rests.append(not schedules.sleeps())
    assert rests == [True, True, False, False]


@pytest.mark.parametrize(
    "made", [its_own, nobody_calls_the_old_one, of_other_parameters, the_rate_is_copied, both_step, a_wrapper]
)
def test_schedules_that_are_as_meant(
    made: Callable[[nn.Module], tuple[Optimizer, Callable[[], None]]], model: nn.Module
) -> None:
    assert run(model, *made(model)) == []
