"""T3 through the door: what goes on training in the mode of its evaluation, and what is meant to."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sightline
from sightline.guard.catalogue import load, page


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


def each_epoch(how: str) -> list[str]:
    """Epochs of twelve steps, in train mode from the top; evaluated after the sixth. `how`: what comes then."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 2))
    opt = torch.optim.SGD(model.parameters(), lr=0.05)
    other = torch.optim.SGD(model.parameters(), lr=0.01) if how == "another optimizer" else opt
    guard = sightline.attach(model, opt, on_finding=None, checks=load((page("T3"),)))
    for _ in range(5 if how == "left at the end" else 4):
        model.train()
        for step in range(12):
            one = other if step > 5 else opt
            one.zero_grad()
            if how == "another line" and step > 5:
                out = model(torch.randn(16, 6))
            else:
                out = model(torch.randn(16, 6))
            out.square().mean().backward()
            one.step()
            if step == (9 if how == "left at the end" else 5):
                if how == "by itself":
                    model.eval()
                    continue
                model.eval()
                with torch.no_grad():
                    model(torch.randn(32, 6))
                model.train(how == "restored")
    guard.close()
    return [f.message for f in guard.findings]


def test_train_mode_comes_back_at_the_next_epoch() -> None:
    (message,) = each_epoch("left")
    assert message.startswith("16 steps train in evaluation mode, which 3 evaluations left on (the first at step 6)")


@pytest.mark.parametrize("how", ["restored", "by itself", "another line", "another optimizer", "left at the end"])
def test_turns_that_are_meant(how: str) -> None:
    assert each_epoch(how) == []
