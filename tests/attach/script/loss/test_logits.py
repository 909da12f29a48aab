"""Softmax twice in one term of a loss that has several, told by its graph; and sums that are as they should be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sightline
from sightline.attach.script.loss.logits import SigmoidLoss, SoftmaxLoss
from sightline.guard.catalogue import load, page

Loss = Callable[[Tensor, Tensor, nn.Module], Tensor]


def deep(z: Tensor, y: Tensor, net: nn.Module) -> Tensor:
    """A term that goes deep comes first."""
    far = z
    for _ in range(80):
        far = far * 1.01
    return far.square().mean() + F.cross_entropy(z.softmax(-1), y) + F.cross_entropy(z / 2, y)


def distilled(z: Tensor, y: Tensor, target: Tensor) -> Tensor:
    return F.kl_div(F.log_softmax(z / 3, -1), F.softmax(target / 3, -1), reduction="batchmean")


WRONG: dict[str, Loss] = {
    "beside a distillation": lambda z, y, _: 0.7 * F.cross_entropy(z.softmax(-1), y) + distilled(z, y, z.detach() * 2),
    "one of two heads": lambda z, y, _: F.cross_entropy(z, y) + 0.5 * F.cross_entropy(z.flip(1).softmax(-1), y),
    "behind a deep term": deep,
    "weighed and smoothed": lambda z, y, _: F.cross_entropy(z.softmax(-1), y, torch.rand(5) + 0.5, label_smoothing=0.1),
    "weighed by rows": lambda z, y, _: (F.cross_entropy(z.softmax(-1), y, reduction="none") * torch.rand(16)).mean(),
}
TWICE: dict[str, Loss] = {  # of yes and no
    "weighed": lambda z, y, _: F.binary_cross_entropy_with_logits(z.sigmoid(), y, pos_weight=torch.tensor(3.0)),
    "by samples": lambda z, y, _: (
        F.binary_cross_entropy_with_logits(z.sigmoid().flatten(), y.flatten(), reduction="none") * torch.rand(80)
    ).mean(),
}
ONCE: dict[str, Loss] = {
    "weighed": lambda z, y, _: F.binary_cross_entropy_with_logits(z, y, pos_weight=torch.tensor(3.0)),
    "probabilities": lambda z, y, _: F.binary_cross_entropy(z.sigmoid(), y),
    "a gate": lambda z, y, _: F.binary_cross_entropy_with_logits(z * z.sigmoid(), y),
}
RIGHT: dict[str, Loss] = {
    "distillation": lambda z, y, _: 0.7 * F.cross_entropy(z, y) + distilled(z, y, z.detach() * 2),
    "weighed and smoothed": lambda z, y, _: F.cross_entropy(z, y, torch.rand(5) + 0.5, label_smoothing=0.1),
    "both directions": lambda z, y, _: F.cross_entropy(z[:5], y[:5] % 5) + F.cross_entropy(z[:5].T, y[:5] % 5),
    "a softmax that is scaled": lambda z, y, _: F.cross_entropy(8 * z.softmax(-1), y) + F.cross_entropy(z, y),
    "an entropy": lambda z, y, _: (
        F.cross_entropy(z, y) + F.cross_entropy(z * 2, y) + (z.softmax(-1) * z.log_softmax(-1)).sum(-1).mean()
    ),
    "log_softmax twice": lambda z, y, _: F.cross_entropy(z.log_softmax(-1), y) + F.cross_entropy(z, y),
}


def codes(loss: Loss) -> set[str]:
    torch.manual_seed(0)
    model = nn.Linear(6, 5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with sightline.attach(model, optimizer, on_finding=None, checks=load((page("T4"),))) as guard:
        for _ in range(4):
            value = loss(model(torch.randn(16, 6)), torch.arange(16) % 5, model)
            found, step = SoftmaxLoss.under(value), guard._recorder.open_step
            optimizer.zero_grad()
            value.backward()
            if found is not None and (found.beside or found.doubled) and step is not None:
                found.tell(guard._recorder, step, shown=True)
            optimizer.step()
    return {finding.code for finding in guard.findings}


def of_yes_and_no(loss: Loss) -> set[str]:
    torch.manual_seed(0)
    model = nn.Linear(6, 5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with sightline.attach(model, optimizer, on_finding=None, checks=load((page("T4"),))) as guard:
        for _ in range(2):
            value = loss(torch.as_tensor(model(torch.randn(16, 6))), torch.rand(16, 5).round(), model)
            found = SigmoidLoss.under(value, first=True)
            value.backward()
            if found is not None:
                found.tell(guard._recorder)
            optimizer.step()
    return {finding.code for finding in guard.findings}


@pytest.mark.parametrize("name", TWICE)
def test_sigmoid_twice_whatever_weighs_it(name: str) -> None:
    assert of_yes_and_no(TWICE[name]) == {"T4"}


@pytest.mark.parametrize("name", ONCE)
def test_sigmoid_once(name: str) -> None:
    assert of_yes_and_no(ONCE[name]) == set()


@pytest.mark.parametrize("name", WRONG)
def test_one_term_takes_softmax_twice(name: str) -> None:
    assert codes(WRONG[name]) == {"T4"}


@pytest.mark.parametrize("name", RIGHT)
def test_terms_that_are_meant_so(name: str) -> None:
    assert codes(RIGHT[name]) == set()


class Maps(nn.Module):
    """Yes or no at each place, for three kinds of things, and where in it they are."""

    def __init__(self, bias: float, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.trunk, self.kinds, self.offsets = nn.Conv2d(1, 32, 3, padding=1), nn.Conv2d(32, 3, 1), nn.Conv2d(32, 2, 1)
        nn.init.constant_(self.kinds.bias, bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.trunk(self.scale * x).relu()
        return self.kinds(h), self.offsets(h)


def yes_or_no(given: tuple[Tensor, Tensor]) -> Tensor:
    wanted = (torch.rand(given[0].shape, generator=torch.Generator().manual_seed(1)) < 0.02).float()
    return F.binary_cross_entropy_with_logits(given[0], wanted) + 0.1 * given[1].abs().mean()


def kinds(given: tuple[Tensor, Tensor]) -> Tensor:
    wanted = torch.randint(0, 3, (len(given[0]), 9, 9), generator=torch.Generator().manual_seed(1))
    return F.cross_entropy(given[0], wanted)


def first_of_maps(loss: Callable[[Any], Tensor], bias: float, scale: float) -> list[str]:
    torch.manual_seed(0)
    model = Maps(bias, scale)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    with sightline.attach(model, optimizer, on_finding=None, checks=load((page("T7"),))) as guard:
        for _ in range(2):
            value = loss(model(torch.rand(4, 1, 9, 9)))
            found = SigmoidLoss.under(value, first=not guard._recorder.step)
            optimizer.zero_grad()
            value.backward()
            if found is not None:
                found.tell(guard._recorder)
            optimizer.step()
    return [finding.code for finding in guard.findings]


@pytest.mark.parametrize(
    ("loss", "bias", "scale", "codes"),
    [
        (yes_or_no, 4.6, 1.0, ["T7"]),
        (yes_or_no, -4.6, 1.0, []),
        (yes_or_no, 0.0, 1.0, []),
        (kinds, 0.0, 120.0, ["T7"]),
        (kinds, 0.0, 1.0, []),
    ],
    ids=["prior of the wrong sign", "prior", "no prior", "inputs of 0 to 120", "inputs of 0 to 1"],
)
def test_the_first_loss_of_maps(loss: Callable[[Any], Tensor], bias: float, scale: float, codes: list[str]) -> None:
    assert first_of_maps(loss, bias, scale) == codes
