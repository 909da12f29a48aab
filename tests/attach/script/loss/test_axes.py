"""Softmaxes along another axis than the classes (I5, I4), told by the graph under a loss."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sightline
from sightline.attach.script.loss.axes import Axes
from sightline.guard.catalogue import load, page

Loss = Callable[[Tensor, Tensor], Tensor]
PLANES, LINES, GAPS = (4, 3, 6, 10), (4, 7, 3), (7, 4, 3)


class Last(nn.Module):
    """Gives outputs of the shape wanted, by a convolution or a linear layer."""

    def __init__(self, shape: tuple[int, ...], classes: int = 3) -> None:
        super().__init__()
        self.shape = shape
        self.planes = len(shape) > 3
        self.layer = nn.Sequential(nn.Conv2d(5, classes, 1) if self.planes else nn.Linear(5, classes))

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.layer(x if self.shape != GAPS else x.transpose(0, 1))
        return made


def codes(shape: tuple[int, ...], loss: Loss, classes: int = 3) -> list[str]:
    torch.manual_seed(0)
    model = Last(shape, classes)
    optimizer, axes = torch.optim.SGD(model.parameters(), lr=0.1), Axes()
    size = (shape[0], 5, *shape[2:]) if model.planes else (*((4, 7) if shape == GAPS else shape[:-1]), 5)
    with sightline.attach(model, optimizer, on_finding=None, checks=load((page("I5"), page("I4")))) as guard:
        for _ in range(4):
            labels = torch.randint(0, 2, (1000,))
            value = loss(model(torch.randn(size)), labels)
            axes.look(value, guard._recorder)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    return [finding.code for finding in guard.findings]


def flat(z: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(z, y[: len(z)])


VIEWED: dict[str, tuple[tuple[int, ...], Loss]] = {
    "planes": (PLANES, lambda z, y: flat(z.contiguous().view(-1, 3), y)),
    "planes, last": (PLANES, lambda z, y: flat(z.reshape(4, 6, 10, 3).flatten(0, 2), y)),
    "planes, upsampled": (PLANES, lambda z, y: flat(F.interpolate(z, scale_factor=2).view(-1, 3), y)),
    "rows of a text": (LINES, lambda z, y: F.cross_entropy(z.view(4, 3, -1), y[:28].view(4, 7))),
    "an input with gaps": (GAPS, lambda z, y: F.cross_entropy(z.view(7, 3, -1), y[:28].view(7, 4))),
}
SOUND: dict[str, tuple[tuple[int, ...], Loss]] = {
    "as they are": (PLANES, lambda z, y: F.cross_entropy(z, y[:240].view(4, 6, 10))),
    "permuted": (PLANES, lambda z, y: flat(z.permute(0, 2, 3, 1).reshape(-1, 3), y)),
    "flattened places": (PLANES, lambda z, y: F.cross_entropy(z.view(4, 3, -1), y[:240].view(4, 60))),
    "one place": ((4, 3, 1, 1), lambda z, y: flat(z.view(4, 3), y)),
    "maps of places": (PLANES, lambda z, y: flat(z.view(12, 60), y)),
    "lines as wide as classes": ((4, 3, 6, 3), lambda z, y: flat(z.view(-1, 3), y)),
    "a map as wide as classes": ((4, 3, 1, 3), lambda z, y: flat(z.view(-1, 3), y)),
    "tokens": (LINES, lambda z, y: flat(z.view(-1, 3), y)),
    "tokens, turned": (LINES, lambda z, y: F.cross_entropy(z.transpose(1, 2), y[:28].view(4, 7))),
    "tokens, but the last": (LINES, lambda z, y: flat(z[:, :-1].reshape(-1, 3), y)),
    "a choice of tokens": (LINES, lambda z, y: F.cross_entropy(z, y[:12].view(4, 3))),
    "as many tokens as classes": ((4, 3, 3), lambda z, y: F.cross_entropy(z.view(4, 3, 3), y[:12].view(4, 3))),
    "with gaps": (GAPS, lambda z, y: flat(z.reshape(-1, 3), y)),
}


@pytest.mark.parametrize("name", VIEWED)
def test_views_in_place_of_permutations(name: str) -> None:
    assert codes(*VIEWED[name]) == ["I5"]


@pytest.mark.parametrize("name", SOUND)
def test_classes_that_stay_together(name: str) -> None:
    assert codes(*SOUND[name]) == []


def test_anchors_share_a_dimension() -> None:
    """Six channels: two anchors of three classes; or heads of a linear layer."""
    assert codes(PLANES, lambda z, y: F.cross_entropy(z.view(8, 3, 6, 10), y[:480].view(8, 6, 10)), 6) == []
    assert codes((4, 6), lambda z, y: F.cross_entropy(z.view(4, 2, 3).transpose(1, 2), y[:8].view(4, 2)), 6) == []
    assert codes((4, 6), lambda z, y: flat(z.view(8, 3), y), 6) == []


def of_classes(z: Tensor, y: Tensor, dim: int) -> Tensor:
    return F.nll_loss(z.log_softmax(dim), y[: len(z)])


OVER_SAMPLES: dict[str, Loss] = {
    "a class for each": lambda z, y: of_classes(z, y, 0),
    "smoothed": lambda z, y: -(z.log_softmax(-2) * (F.one_hot(y[:8], 3) * 0.9 + 0.1 / 3)).sum(1).mean(),
}
CHOICES: dict[str, Loss] = {
    "classes": lambda z, y: of_classes(z, y, 1),
    "one sample for each question": lambda z, y: -z.log_softmax(0)[[1, 5, 6], [0, 1, 2]].mean(),
    "shares of samples": lambda z, y: -(z.log_softmax(0) * torch.rand(8, 3).softmax(0)).sum(0).mean(),
    "transposed": lambda z, y: F.cross_entropy(z.T, y[:3]),
    "in both directions": lambda z, y: of_classes(z, y, 0) + of_classes(z, y, 1),
    "weighed samples": lambda z, y: (torch.rand(8) * F.nll_loss(z.log_softmax(0), y[:8], reduction="none")).mean(),
    "every class as often": lambda z, y: F.nll_loss(z[:6].log_softmax(0), torch.arange(6) % 3),
}


@pytest.mark.parametrize("name", OVER_SAMPLES)
def test_a_softmax_over_samples(name: str) -> None:
    assert codes((8, 3), OVER_SAMPLES[name]) == ["I4"]


@pytest.mark.parametrize("name", CHOICES)
def test_choices_among_samples(name: str) -> None:
    assert codes((8, 3), CHOICES[name]) == []
