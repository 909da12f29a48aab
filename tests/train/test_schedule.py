"""The learning rate's laws, and agreement with transformers' schedules (which start one step lower, at rate 0)."""

from __future__ import annotations

import pytest
import torch
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from sightline.recipe.schema import Schedule
from sightline.train.schedule import dropout_share, factor, warmup_steps
from tests.train.tiny import stage


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


def test_layers_warm_up_one_after_the_other() -> None:
    """The k-th after the first takes k x 10 steps longer; before and after that, every layer's rate is the same."""
    one_by_one = Schedule(kind="cosine", warmup=5, layers={"steps": 10})  # type: ignore[arg-type]
    together = Schedule(kind="cosine", warmup=5)
    for step in range(100):
        assert factor(one_by_one, step, 100, 0) == factor(together, step, 100)
        for place in (1, 3):
            peak = 1.0 if step < 5 else factor(together, step, 100)
            expected = peak * min(1.0, (step + 1) / (5 + 10 * place))
            assert factor(one_by_one, step, 100, place) == pytest.approx(expected), (step, place)
            assert factor(together, step, 100, place) == factor(together, step, 100)
    assert factor(Schedule(warmup=0.0, kind="constant", layers={"steps": 4}), 1, 9, 1) == 0.5  # type: ignore[arg-type]


@pytest.mark.parametrize(("told", "steps"), [(8, 8), (0.25, 10), (100, 40)])
def test_dropout_rises_from_nothing(told: float, steps: int) -> None:
    spec = stage(dropout_warmup=told).stages[0]
    shares = [dropout_share(spec, step, 40) for step in range(40)]
    assert shares == [pytest.approx(min(1.0, step / steps)) for step in range(40)]
    assert dropout_share(stage().stages[0], 0, 40) == 1.0
