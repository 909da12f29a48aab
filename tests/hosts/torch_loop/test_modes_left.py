"""T3 through the door: what goes on training in the mode of its evaluation, and what is meant to."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sightline


def fit(again: str, steps: int = 30) -> list[str]:
    """Evaluate every eight steps. `again`: when train mode is asked for once more."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 2))
    opt = torch.optim.SGD(model.parameters(), lr=0.05)
    guard = sightline.attach(model, opt, on_finding=None)
    model.train(again != "from the start")
    for step in range(steps):
        if again == "each step":
            model.train()
        opt.zero_grad()
        model(torch.randn(16, 6)).square().mean().backward()
        opt.step()
        if again == "attacks" and step == 15:
            break
        if step % 8 == 7:
            model.eval()
            with torch.no_grad():
                model(torch.randn(32, 6))
            if again == "each evaluation" or (again == "but batch norm" and step > 7) or again == "attacks":
                model.train()
            if again == "but batch norm":
                model.train()
                model[1].eval()
    if again == "attacks":
        model.eval()
        for _ in range(20):
            x = torch.randn(8, 6, requires_grad=True)
            model(x).square().mean().backward()
    guard.close()
    return [f"{f.code} {f.severity}" for f in guard.findings]


def test_train_mode_stands_before_the_loop() -> None:
    assert fit("never") == ["T3 warning"]


@pytest.mark.parametrize("again", ["each step", "each evaluation", "from the start", "but batch norm", "attacks"])
def test_modes_that_are_meant(again: str) -> None:
    assert fit(again) == []
