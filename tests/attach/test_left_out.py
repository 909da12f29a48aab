"""Batches that a loop skips because their loss is not finite: the model's own doing, or a passing one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from sightline.attach.torch_loop import attach
from sightline.guard.check import Finding


class Pooled(nn.Module):
    """Attention over what is not padding. `hidden`: the score of padding."""

    def __init__(self, hidden: float) -> None:
        super().__init__()
        self.embed, self.score, self.hidden = nn.Embedding(20, 8), nn.Linear(8, 1), hidden
        self.head = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        scores = self.score(x).squeeze(-1).masked_fill(ids == 0, self.hidden)
        pooled = (scores.softmax(-1)[:, None] @ x)[:, 0]
        out: Tensor = self.head(pooled)[:, 0]
        return out


def batches(count: int, empty: set[int]) -> list[tuple[Tensor, Tensor]]:
    found = []
    for place in range(count):
        ids = torch.randint(1, 20, (6, 5))
        ids[:, 3:] = 0
        if place in empty:
            ids[2] = 0
        found.append((ids, ids.sum(1).float() / 50))
    return found


def trained(model: nn.Module, data: list[tuple[Tensor, Tensor]], budget: float = 1.0) -> list[Finding]:
    found: list[Finding] = []
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with attach(model, optimizer, on_finding=found.append, budget=budget):
        for ids, goal in data:
            loss = (model(ids) - goal).square().mean()
            if not torch.isfinite(loss):
                continue
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return found


@pytest.mark.parametrize("budget", [pytest.param(1.0, marks=pytest.mark.slow), 0.02])
def test_rows_without_keys_are_never_trained_on(budget: float) -> None:
    torch.manual_seed(0)
    data = batches(60, {7, 20, 21, 35, 50})
    (finding,) = trained(Pooled(-math.inf), data, budget)
    assert (finding.code, finding.severity) == ("P1", "warning")
    assert "4 of " in finding.message or "3 of " in finding.message
    assert "Pooled itself, on the way to head" in finding.message and "masked row" in finding.fix
    assert trained(Pooled(-1e4), data, budget) == []


def test_nothing_but_such_batches_is_an_error() -> None:
    torch.manual_seed(0)
    (finding,) = trained(Pooled(-math.inf), batches(16, set(range(16))))
    assert (finding.code, finding.severity) == ("P1", "error")


def test_two_odd_batches_of_many_are_what_a_guard_is_for() -> None:
    torch.manual_seed(0)
    assert trained(Pooled(-math.inf), batches(60, {7, 20, 40})) == []  # the first one only opens our eyes


def test_what_passes_by_itself_is_not_told() -> None:
    """A forward that overflows by chance: the same batch is fine a second time."""

    class Chance(Pooled):
        def forward(self, ids: Tensor) -> Tensor:
            out: Tensor = super().forward(ids)
            self.calls = getattr(self, "calls", 0) + 1
            return out / 0 if self.calls % 5 == 0 else out

    torch.manual_seed(0)
    assert all(finding.code != "P1" for finding in trained(Chance(-1e4), batches(60, set())))


def test_forwards_that_are_for_something_else_are_left_alone() -> None:
    torch.manual_seed(0)
    model, found = Pooled(-1e4), list[Finding]()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with attach(model, optimizer, on_finding=found.append, budget=1.0):
        for ids, goal in batches(40, set()):
            aim = model(ids).detach()  # without no_grad
            optimizer.zero_grad()
            (model(ids) - (goal + aim) / 2).square().mean().backward()
            optimizer.step()
    assert found == []
