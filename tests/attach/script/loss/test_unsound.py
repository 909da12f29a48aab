"""Gradients that are NaN though the loss is finite: the operation is named, and how to mend it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from sightline.attach.script.loss.roots import Losses
from sightline.attach.script.loss.unsound import steep
from sightline.attach.script.watch import Models
from sightline.guard.check import Finding

pytestmark = pytest.mark.usefixtures("origins")
Objective = Callable[[Tensor, Tensor, float], Tensor]
LATE = 6  # a step that is heard, and not measured


def root(a: Tensor, b: Tensor, eps: float) -> Tensor:
    """Of the distance, whose square is all that a pair of the same image has in the loss."""
    return ((a - b).square().sum(1) + eps).sqrt().square().mean()


def logarithm(a: Tensor, b: Tensor, eps: float) -> Tensor:
    gap = (a - b).square().sum(1)
    return torch.where(gap > 0, (gap + eps).log(), 0.0).mean()


def quotient(a: Tensor, b: Tensor, eps: float) -> Tensor:
    gap = (a - b).square().sum(1)
    return torch.where(gap > 0, gap / (gap + eps) * gap, 0.0).mean()


def fractional_power(a: Tensor, b: Tensor, eps: float) -> Tensor:
    return ((a - b).square().sum(1) + eps).pow(0.25).square().square().mean()


@contextmanager
def listened(budget: float, found: list[Finding]) -> Iterator[Models]:
    problems: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.autograd, "backward", torch.autograd.backward)
        patch.setattr(torch.amp.GradScaler, "scale", torch.amp.GradScaler.scale)
        models = Models(budget, found.append, problems.append)
        Losses(models, problems.append).install()
        yield models
        models.close_all(whole=True)
    assert not problems


def trained(objective: Objective, eps: float, budget: float = 1.0) -> list[Finding]:
    torch.manual_seed(0)
    found: list[Finding] = []
    with listened(budget, found) as models:
        model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        models.attach(model, [optimizer], blind=False)
        for step in range(LATE + 6):
            x, y = torch.randn(16, 8), torch.randn(16, 8)
            if step >= LATE:
                y[3] = x[3]
            optimizer.zero_grad()
            objective(*model(torch.cat([x, y])).chunk(2), eps).backward()
            optimizer.step()
    return found


@pytest.mark.parametrize("budget", [1.0, 0.02])
@pytest.mark.parametrize(
    ("objective", "operation", "fix"),
    [
        (root, "SqrtBackward0", "sqrt(x + eps)"),
        (logarithm, "LogBackward0", "log(x + eps)"),
        (quotient, "DivBackward0", "x / (y + eps)"),
        (fractional_power, "PowBackward0", "(x + eps) ** p"),
    ],
)
def test_the_operation_is_named(objective: Objective, operation: str, fix: str, budget: float) -> None:
    (finding,) = trained(objective, 0.0, budget)
    assert finding.code == "P1" and operation in finding.message and fix in finding.fix and "clip" not in finding.fix
    assert trained(objective, 1e-6, budget) == []


def test_weights_that_a_large_step_spoiled_are_not_put_down_to_a_module() -> None:
    found: list[Finding] = []
    with listened(0.02, found) as models:
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=1e8)
        models.attach(model, [optimizer], blind=False)
        for _ in range(16):
            optimizer.zero_grad()
            model(torch.randn(8, 4)).square().mean().backward()
            optimizer.step()
    assert [finding.code for finding in found] == ["P1"] and "learning rate" in found[0].fix


def test_what_cannot_be_steep_is_not_listened_to() -> None:
    x = torch.randn(4, requires_grad=True)
    assert steep(((x.square() / 3).mean() / 2).grad_fn) == []
    assert [way for _, way in steep((x.square() + 1).sqrt().sum().grad_fn)] == [(0,)]
