"""X1 through the door: backbones that freeze stages in their own train(), in loops that call it and that do not."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sightline
from sightline.guard.catalogue import load, page

X1 = load((page("X1"),))


class Backbone(nn.Module):
    def __init__(self, frozen: int) -> None:
        super().__init__()
        widths = (3, 8, 16, 16)
        self.frozen, self.head = frozen, nn.Linear(16, 4)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, 3, 2, 1), nn.BatchNorm2d(o), nn.ReLU()) for i, o in pairwise(widths)
        )

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        for stage in self.stages[: self.frozen]:
            stage.eval().requires_grad_(False)
        return self

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = stage(x)
        return self.head(x.mean((2, 3)))


def fit(model: nn.Module, prepare: Callable[[nn.Module], object], evaluate: bool = False, steps: int = 10) -> list[str]:
    prepare(model)
    opt = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    with sightline.attach(model, opt, on_finding=None, checks=X1) as guard:
        for number in range(steps):
            opt.zero_grad()
            F.cross_entropy(model(torch.rand(8, 3, 16, 16)), torch.randint(0, 4, (8,))).backward()
            opt.step()
            if evaluate and number % 4 == 3:
                model.eval()
                with torch.no_grad():
                    model(torch.rand(8, 3, 16, 16))
                model.train()
    return [f"{finding.code} {finding.fix}" for finding in guard.findings]


def nothing(model: nn.Module) -> None:
    """As the constructor left it."""


def in_eval_mode(model: nn.Module) -> None:
    model.train()
    model.eval()


def by_hand(model: Backbone) -> None:
    for stage in model.stages[: model.frozen]:
        stage.eval().requires_grad_(False)


def within(model: nn.Module) -> None:
    """The stages come from a part of the model."""
    model[0].train()


@pytest.mark.parametrize("evaluate", [False, True])
def test_train_was_never_called(evaluate: bool) -> None:
    torch.manual_seed(0)
    (found,) = fit(Backbone(2), nothing, evaluate)
    assert found.startswith("X1 call model.train()")


def test_train_of_a_part_was_never_called() -> None:
    torch.manual_seed(0)
    assert len(fit(nn.Sequential(Backbone(2), nn.ReLU()), nothing)) == 1


@pytest.mark.parametrize(
    ("make", "prepare"),
    [
        (lambda: Backbone(2), nn.Module.train),
        (lambda: Backbone(2), Backbone.train),
        (lambda: Backbone(2), by_hand),
        (lambda: Backbone(2), in_eval_mode),
        (lambda: Backbone(0), nothing),
        (lambda: nn.Sequential(Backbone(2), nn.ReLU()), within),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3, 4), nn.Flatten(), nn.LazyLinear(4)), nothing),
    ],
)
def test_honest_ways(make: Callable[[], nn.Module], prepare: Callable[[nn.Module], object]) -> None:
    torch.manual_seed(0)
    model = make()
    if isinstance(model, nn.Sequential) and prepare is nothing:
        model(torch.rand(8, 3, 16, 16))
    evaluate = prepare is not in_eval_mode
    expected = 1 if prepare is nn.Module.train else 0  # the base class's own: the override never ran
    assert len(fit(model, prepare, evaluate)) == expected
