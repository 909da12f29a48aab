"""The learning rate's laws, and agreement with transformers' schedules (which start one step lower, at rate 0)."""

from __future__ import annotations

import pytest
import torch
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from sightline.recipe.schema import Schedule
from sightline.train.schedule import factor, warmup_steps


@pytest.mark.parametrize(
    ("kind", "make"), [("cosine", get_cosine_schedule_with_warmup), ("linear", get_linear_schedule_with_warmup)]
)
def test_equals_transformers_one_step_on(kind: str, make: object) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = make(optimizer, num_warmup_steps=7, num_training_steps=41)  # type: ignore[operator]
    for step in range(40):
        optimizer.step()
        theirs.step()
        ours = factor(Schedule(kind=kind, warmup=7), step, 40)  # type: ignore[arg-type]
        assert ours == pytest.approx(theirs.get_last_lr()[0], abs=1e-9), step


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 1, 5, 100])
def test_laws(kind: str, warmup: float) -> None:
    schedule, total = Schedule(kind=kind, warmup=warmup, floor=0.1), 50  # type: ignore[arg-type]
    rates = [factor(schedule, step, total) for step in range(total)]
    rising = warmup_steps(schedule, total)
    assert all(0 < rate <= 1 + 1e-12 for rate in rates)
    assert rates[:rising] == sorted(rates[:rising])
    if rising:
        assert rates[rising - 1] == 1
    if kind != "constant" and rising < total:
        assert 0.1 < rates[-1] < 0.1 + 0.9 * 3 / (total - rising + 1)  # close to the floor, and still above it
        assert rates[rising:] == sorted(rates[rising:], reverse=True)


def test_a_whole_number_is_a_count_and_a_fraction_a_share() -> None:
    assert warmup_steps(Schedule(warmup=3), 100) == 3
    assert warmup_steps(Schedule(warmup=0.03), 101) == 4
    assert warmup_steps(Schedule(warmup=500), 100) == 100
