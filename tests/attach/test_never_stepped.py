"""Two optimizers of one model, and one of them never steps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sightline
from sightline.guard.catalogue import load, page

SOUND = ("both step", "the first steps late", "the second holds all", "a run that is short", "its half is not cleared")


def findings(case: str) -> list[str]:
    torch.manual_seed(0)
    front, back = nn.Sequential(nn.Linear(6, 16), nn.Tanh()), nn.Linear(16, 2)
    model = nn.Sequential(front, back)
    first = torch.optim.Adam(front.parameters(), lr=1e-3)
    second = torch.optim.Adam((model if case == "the second holds all" else back).parameters(), lr=1e-3)
    with sightline.attach(model, first, on_finding=None, budget=1.0, checks=load((page("T1"),))) as guard:
        for step in range(40 if case == "a run that is short" else 80):
            rows = torch.randn(8, 6)
            second.zero_grad()
            if case != "its half is not cleared":
                first.zero_grad()
            nn.functional.cross_entropy(model(rows), (rows[:, 0] > 0).long()).backward()
            if case == "both step" or (case == "the first steps late" and step > 50):
                first.step()
            second.step()
    return [f"{one.severity}: {one.message}" for one in guard.findings]


def test_an_optimizer_that_is_forgotten() -> None:
    (found,) = findings("the first is forgotten")
    assert found.startswith("warning: an optimizer never stepped in 80 steps") and "0.0.weight" in found


@pytest.mark.parametrize("case", SOUND)
def test_optimizers_that_are_not(case: str) -> None:
    assert findings(case) == []
