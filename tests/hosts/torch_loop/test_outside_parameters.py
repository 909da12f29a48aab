"""T2 with a parameter that the loss uses outside the forward pass: its gradient comes before the outputs'."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from torch.nn.functional import cross_entropy

import sightline

STEPS = 5


class Tasks(nn.Module):
    """Three numbers of each row, and how far each is to be trusted."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.trust = nn.Linear(6, 3), nn.Parameter(torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.heads(x)


def weighted(model: Any, x: torch.Tensor) -> torch.Tensor:
    """Kendall's weights; errors a hundred times as large as the inputs, so that most of the gradient is theirs."""
    errors = (model(x) / 100 - x[:, :3] * 10).square().mean(0)
    return (errors * (-model.trust).exp() + model.trust).sum()


def regression(clear: str) -> list[str]:
    """`clear`: to None, to zeros, all but the model's own layers, all but its trust, or never."""
    torch.manual_seed(0)
    model = Tasks()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with sightline.attach(model, optimizer, on_finding=None) as guard:
        for _ in range(STEPS):
            loss = weighted(model, torch.randn(16, 6))
            if clear in ("none", "zeros"):
                optimizer.zero_grad(set_to_none=clear == "none")
            elif clear == "not the layers":
                model.trust.grad = None
            elif clear == "not the trust":
                model.heads.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    assert "gradients-not-zeroed" in {r["check"] for r in guard.records() if r["kind"] != "not-run"}
    return [f.code for f in guard.findings]


@pytest.mark.parametrize("clear", ["none", "zeros"])
def test_a_gradient_of_this_very_pass_is_not_left_over(clear: str) -> None:
    assert regression(clear) == []


@pytest.mark.parametrize("clear", ["never", "not the layers", "not the trust"])
def test_gradients_left_over_beside_it(clear: str) -> None:
    assert regression(clear) == ["T2"]


def accumulated(clear: str) -> list[str]:
    """A classifier with a temperature of its own; two halves of a mean for each step."""
    torch.manual_seed(0)
    model: Any = nn.Linear(6, 4)
    model.temperature = nn.Parameter(torch.tensor(3.0))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    with sightline.attach(model, optimizer, on_finding=None) as guard:
        for _ in range(STEPS):
            optimizer.zero_grad()
            for _ in range(2):
                if clear == "each":
                    optimizer.zero_grad()
                logits = model(torch.randn(8, 6))
                logits.retain_grad()
                loss = cross_entropy(logits, torch.randint(4, (8,))) / 2 + model.temperature.square()
                loss.backward()
            optimizer.step()
    return [f.code for f in guard.findings]


def test_micro_batches_that_are_cleared_beside_it() -> None:
    assert accumulated("step") == []
    assert accumulated("each") == ["T2"]


def game(clear: str) -> list[str]:
    """A GAN whose judge has a slope of its own, with which the loss multiplies what it says."""
    torch.manual_seed(0)
    maker, judge = nn.Linear(4, 6), nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
    judge.slope = nn.Parameter(torch.tensor(2.0))
    opt_maker, opt_judge = torch.optim.SGD(maker.parameters(), lr=0.1), torch.optim.SGD(judge.parameters(), lr=0.1)
    with sightline.attach(judge, opt_judge, on_finding=None) as guard:
        for _ in range(STEPS):
            fake = maker(torch.randn(16, 4))
            if clear == "before":
                opt_judge.zero_grad()
            real = bce(judge(torch.randn(16, 6) + 2) * judge.slope, torch.ones(16, 1))
            (real + bce(judge(fake.detach()) * judge.slope, torch.zeros(16, 1))).backward()
            opt_judge.step()
            if clear == "after":
                opt_judge.zero_grad()
            opt_maker.zero_grad()
            bce(judge(fake) * judge.slope, torch.ones(16, 1)).backward()
            opt_maker.step()
    return [f.message for f in guard.findings if f.code == "T2"]


def test_a_judge_with_such_a_parameter() -> None:
    assert game("before") == []
    messages = game("after")
    assert len(messages) == 1 and "on to the network before this one" in messages[0]


class Proxies(nn.Module):
    """A loss with a centre for each class."""

    def __init__(self) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(4, 5))

    def forward(self, points: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        return cross_entropy(nn.functional.normalize(points, dim=-1) @ self.centres.t(), classes)


def metric_learning(clear: str, *, halves: int = 1, scaled: bool = False) -> list[str]:
    """One optimizer for the model and its loss; `clear`: all that it holds, the model alone, or each by itself."""
    torch.manual_seed(0)
    model, loss_of = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5)), Proxies()
    optimizer = torch.optim.Adam([*model.parameters(), *loss_of.parameters()], lr=1e-3)
    scaler = torch.amp.GradScaler("cpu", enabled=scaled)
    with sightline.attach(model, optimizer, on_finding=None) as guard:
        for _ in range(STEPS):
            if clear == "all":
                optimizer.zero_grad()
            elif clear == "the model":
                model.zero_grad()
            elif clear == "each, to zeros":
                model.zero_grad(set_to_none=False)
                loss_of.zero_grad(set_to_none=False)
            for _ in range(halves):
                scaler.scale(loss_of(model(torch.randn(16, 6)), torch.randint(4, (16,))) / halves).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_([*model.parameters(), *loss_of.parameters()], 0.01)
            scaler.step(optimizer)
            scaler.update()
    return [f.code for f in guard.findings]


@pytest.mark.parametrize("clear", ["all", "each, to zeros"])
@pytest.mark.parametrize(("halves", "scaled"), [(1, False), (2, True)])
def test_a_loss_with_parameters_of_its_own_is_cleared(clear: str, halves: int, scaled: bool) -> None:
    assert metric_learning(clear, halves=halves, scaled=scaled) == []


@pytest.mark.parametrize("halves", [1, 2])
def test_a_loss_with_parameters_of_its_own_is_left_out(halves: int) -> None:
    assert metric_learning("the model", halves=halves) == ["T2"]
