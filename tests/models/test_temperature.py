"""The temperature starts where it is told, stays within its bounds, and never gets stuck at one."""

from __future__ import annotations

import math

import pytest
import torch

from sightline.errors import UserError
from sightline.models.temperature import Temperature


def test_starts_at_clips_temperature() -> None:
    temperature = Temperature()
    assert temperature.log_scale.item() == pytest.approx(2.6592, abs=1e-4)  # CLIP's ln(1 / 0.07)
    assert temperature().item() == pytest.approx(1 / 0.07)


@pytest.mark.parametrize("log_scale", [1e4, math.inf, 200.0])
def test_a_huge_parameter_gives_the_highest_scale(log_scale: float) -> None:
    temperature = Temperature().eval()
    with torch.no_grad():
        temperature.log_scale.fill_(log_scale)
    value = temperature()
    value.backward()
    assert value.item() == pytest.approx(100)
    assert temperature.log_scale.grad.item() == pytest.approx(100)


@pytest.mark.parametrize(("start", "push"), [(100.0, -1.0), (1.0, 1.0)])
def test_comes_back_from_a_bound(start: float, push: float) -> None:
    """Pushed over a bound for some steps, then the other way: the first step back moves the scale."""
    temperature = Temperature(start)
    optimizer = torch.optim.SGD(temperature.parameters(), lr=1e-3)
    for way in (push, push, push, -push):
        optimizer.zero_grad()
        (way * temperature()).backward()
        optimizer.step()
    back = temperature().item()
    assert 1 < back < 100


def test_gradients_add_up_over_micro_batches_at_a_bound() -> None:
    """Parts that pull outwards and inwards sum to what their sum gives."""
    temperature = Temperature(100.0)
    for pull in (-3.0, 1.0, 4.0):
        (pull * temperature()).backward()
    assert temperature.log_scale.grad.item() == pytest.approx(2.0 * 100, rel=1e-5)


def test_is_the_exponential_between_the_bounds() -> None:
    temperature = Temperature(10.0, None, None).double()
    assert torch.autograd.gradcheck(lambda _: temperature(), (temperature.log_scale,))


def test_evaluation_does_not_write_the_parameter() -> None:
    temperature = Temperature().eval()
    with torch.no_grad():
        temperature.log_scale.fill_(50.0)
    temperature()
    assert temperature.log_scale.item() == 50
    temperature.train()()
    assert temperature.log_scale.item() == pytest.approx(math.log(100))


@pytest.mark.parametrize(("scale", "lowest", "highest"), [(0.0, None, None), (200.0, 1.0, 100.0), (0.5, 1.0, None)])
def test_a_start_outside_the_bounds(scale: float, lowest: float | None, highest: float | None) -> None:
    with pytest.raises(UserError, match="cannot start"):
        Temperature(scale, lowest, highest)
