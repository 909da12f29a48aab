"""T4's borders: which forms of a loss are two softmaxes, read off real gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax, nll_loss, one_hot

from sightline.attach.gradient import loss_seen, read_gradient
from sightline.guard.check import CannotTell, Finding
from sightline.guard.checks.loss.double_softmax import FEWEST, find


def judged(logits: Tensor, loss: Tensor):
    (grad,) = torch.autograd.grad(loss, logits)
    return find(loss_seen(1, 0, list(read_gradient(logits, grad))))


def example(classes: int, rows: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(rows, classes).to(dtype).requires_grad_(), torch.randint(0, classes, (rows,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("classes", "rows"), [(2, 64), (10, 16), (1000, 400)])
def test_softmax_between_model_and_loss(classes: int, rows: int, dtype: torch.dtype) -> None:
    logits, targets = example(classes, rows, dtype)
    assert isinstance(judged(logits, cross_entropy(logits.float().softmax(dim=-1), targets)), Finding)


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_softmax_inside_the_model(classes: int) -> None:
    logits, targets = example(classes, 16)
    given = logits.softmax(dim=-1)
    assert isinstance(judged(given, cross_entropy(given, targets)), Finding)


FAIR = {
    "cross entropy": lambda z, t: cross_entropy(z, t),
    "sum": lambda z, t: cross_entropy(z, t, reduction="sum"),
    "log_softmax twice": lambda z, t: cross_entropy(log_softmax(z, dim=-1), t),
    "temperature": lambda z, t: cross_entropy(z / 0.7, t),
    "label smoothing": lambda z, t: cross_entropy(z, t, label_smoothing=0.1),
    "class weights": lambda z, t: cross_entropy(z, t, weight=torch.linspace(0.1, 3, z.shape[-1])),
    "focal": lambda z, t: ((1 - z.softmax(-1)) ** 2 * -z.log_softmax(-1)).gather(-1, t[:, None]).mean(),
    "advantages": lambda z, t: (cross_entropy(z, t, reduction="none") * torch.linspace(0.1, 2, len(t))).mean(),
    "squared error": lambda z, t: (z - one_hot(t, z.shape[-1])).square().mean(),
    "brier": lambda z, t: (z.softmax(-1) - one_hot(t, z.shape[-1])).square().sum(-1).mean(),
}


@pytest.mark.parametrize("name", FAIR)
@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_fair_losses_are_silent(name: str, classes: int) -> None:
    if name == "brier" and classes == 1000:
        pytest.skip("its gradient is that of two softmaxes when no class is likely: the page says so")
    logits, targets = example(classes, 64)
    assert judged(logits, FAIR[name](logits, targets)) is None


def test_probabilities_for_nll_are_fair() -> None:
    logits, targets = example(10, 16)
    given = logits.softmax(dim=-1)
    assert judged(given, nll_loss(given.log(), targets)) is None


def test_a_model_that_has_said_nothing_yet_proves_nothing() -> None:
    """All logits equal: every position weighs the same under one softmax and under two."""
    logits, targets = torch.zeros(16, 10, requires_grad=True), torch.arange(16) % 10
    assert judged(logits, cross_entropy(logits.softmax(dim=-1), targets)) is None


def test_few_positions_and_none() -> None:
    logits, targets = example(10, FEWEST - 1)
    assert judged(logits, cross_entropy(logits.softmax(dim=-1), targets)) is None
    assert isinstance(judged(logits, 0 * logits.sum()), CannotTell)
