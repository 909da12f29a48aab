"""A stage in which all towers learn, after one of the connector alone: at one rate, or at rates of their own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sightline
from sightline.guard.catalogue import load, page

TOWERS = ("vision", "connector", "language")


class Counter(nn.Module):
    """Counts by ones or twos, as the image says."""

    def __init__(self) -> None:
        super().__init__()
        self.vision, self.connector = nn.Sequential(nn.Conv2d(3, 8, 4), nn.Flatten()), nn.Linear(8, 32)
        self.language = nn.Sequential(nn.Embedding(32, 32), nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32))

    def forward(self, images: Tensor, ids: Tensor) -> Tensor:
        return self.language[1:](self.language[0](ids) + self.connector(self.vision(images))[:, None])


def loss_of(model: Counter, task: int) -> Tensor:
    by = torch.randint(1, 3, (16, 1))
    images = torch.randn(16, 3, 4, 4) * 0.2 + (by * 2.0 - 3)[..., None, None]
    ids = (torch.randint(32, (16, 1)) + by * torch.arange(9) + (task and torch.randint(8, (16, 9)))) % 32
    return F.cross_entropy(model(images, ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())


def train(model: Counter, optimizer: torch.optim.Optimizer, steps: int, task: int = 0, guard: Any = None) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(model, task)
        loss.backward()
        optimizer.step()
        if guard is not None:
            guard.step(loss=loss)


def codes(rates: dict[str, float], task: int = 0) -> list[str]:
    """What is found when trained towers learn at `rates`, on another task perhaps, after the connector did alone."""
    torch.manual_seed(0)
    model = Counter()
    train(model, torch.optim.Adam(model.parameters(), lr=1e-2), 200)
    parts = {name: [name] for name in TOWERS}
    with sightline.attach(model, towers=parts, on_finding=None, checks=load((page("X3"),))) as guard:
        model.vision.requires_grad_(False)
        model.language.requires_grad_(False)
        train(model, torch.optim.Adam(model.connector.parameters(), lr=1e-3), 12, 0, guard)
        model.requires_grad_(True)
        groups = [{"params": list(model.get_submodule(name).parameters()), "lr": rates[name]} for name in TOWERS]
        optimizer = torch.optim.Adam(groups)
        guard._recorder.joined([optimizer])  # `sightline run` tells of it
        train(model, optimizer, 24, task, guard)
    return [finding.code for finding in guard.findings]


def test_trained_towers_at_the_connectors_rate() -> None:
    assert codes(dict.fromkeys(TOWERS, 5e-2)) == ["X3"]


@pytest.mark.parametrize(
    "rates",
    [
        {"vision": 1e-5, "connector": 5e-2, "language": 1e-4},
        pytest.param(dict.fromkeys(TOWERS, 2e-5), marks=pytest.mark.slow),
        dict.fromkeys(TOWERS, 2e-3),
    ],
    ids=["rates of their own", "one low rate", "one rate that does no harm"],
)
def test_sound_stages(rates: dict[str, float]) -> None:
    assert codes(rates) == []


def test_another_task_raises_the_loss_by_itself() -> None:
    assert codes(dict.fromkeys(TOWERS, 2e-3), task=1) == []


def test_another_optimizer_wakes_the_guard() -> None:
    model = Counter()
    model.language.requires_grad_(False)
    first, second = (torch.optim.SGD(model.get_submodule(name).parameters(), lr=1e-3) for name in TOWERS[1:])
    with sightline.attach(model, first, on_finding=None, budget=1e-6, checks=load((page("X3"),))) as guard:
        train(model, first, 40)
        assert guard._recorder.asleep
        model.language.requires_grad_(True)
        assert not guard._recorder.joined([first])
        assert guard._recorder.joined([second])
        loss = loss_of(model, 0)
        assert guard._recorder.open_step is not None and guard._recorder.open_step.measured
        assert guard._recorder.setup.towers and second in guard._recorder.optimizers
        loss.backward()
        second.step()
