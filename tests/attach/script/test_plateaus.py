"""A schedule that waits for the wrong direction of what it is given; and cuts of the rate that are right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from sightline.attach.script.plateaus import Plateaus
from sightline.attach.script.watch import Models
from sightline.guard.check import Finding

ROWS = 120  # of an evaluation


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    step = ReduceLROnPlateau.step
    yield
    ReduceLROnPlateau.step = step  # type: ignore[method-assign]


def findings(values: Sequence[float], mode: str) -> list[Finding]:
    """An epoch of three steps for each value, which the schedule is given at its end."""
    problems: list[str] = []
    found: list[Finding] = []
    torch.manual_seed(0)
    models, net = Models(1.0, found.append, problems.append), nn.Linear(4, 2)
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    plan = ReduceLROnPlateau(opt, mode=mode, factor=0.5, patience=1)
    Plateaus(models, problems.append).install()
    models.attach(net, [opt], blind=False)
    for value in values:
        for _ in range(3):
            opt.zero_grad()
            net(torch.randn(8, 4)).square().mean().backward()
            opt.step()
        plan.step(value)
    models.close_all(whole=True)
    assert not problems
    return [one for one in found if one.code == "T6"]


HITS = [float(torch.tensor(n) / ROWS) for n in (47, 52, 60, 63, 71, 74, 80, 84)]
NOISY = [float(torch.tensor(n) / ROWS) for n in (47, 60, 58, 66, 64, 70, 69, 75)]
ERRORS = [1 - hit for hit in HITS]
LOSS = [1.613, 1.342, 1.112, 0.913, 0.922, 0.931, 0.954, 0.961]
OVERFIT = [0.3121, 0.3517, 0.3942, 0.4418, 0.4883, 0.5316, 0.5921, 0.6473]  # a loss that rises from the first epoch on
WORSE = [float(torch.tensor(n) / ROWS) for n in (10, 11, 12, 11, 13, 12, 14, 15)]  # errors that get a little more


@pytest.mark.parametrize("values", [HITS, NOISY, [100 * hit for hit in HITS]])
def test_a_share_that_should_rise(values: list[float]) -> None:
    (found,) = findings(values, "min")
    assert found.message.startswith("the schedule is turned round") and "mode='max'" in found.fix
    assert findings(values, "max") == []


@pytest.mark.parametrize("values", [ERRORS, LOSS, OVERFIT, WORSE])
def test_what_should_be_less(values: list[float]) -> None:
    assert findings(values, "min") == []
