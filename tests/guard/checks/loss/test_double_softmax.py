"""T4's borders: which forms of a loss are two softmaxes, read off real gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy, cross_entropy, log_softmax, mse_loss, nll_loss, one_hot
from torch.nn.functional import binary_cross_entropy_with_logits as with_logits

import sightline
from sightline.attach.gradient import loss_seen, read_gradient
from sightline.guard.catalogue import load, page
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


def asked(last: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], *, outputs: int = 6, dtype=torch.float32):
    """T4 on the first loss of a model whose answers are yes or no."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, outputs), last).to(dtype)
    with sightline.attach(net, torch.optim.SGD(net.parameters(), lr=0.1), on_finding=None) as guard:
        for _ in range(2):
            answers = (torch.rand(32, outputs) < 0.4).to(dtype)
            given = net(torch.randn(32, 8).to(dtype))
            loss(given, answers.reshape(given.shape)).backward()
    return [f for f in guard.findings if f.code == "T4"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("outputs", [1, 6])
def test_sigmoid_twice(outputs: int, dtype: torch.dtype) -> None:
    inside = asked(nn.Sigmoid(), with_logits, outputs=outputs, dtype=dtype)
    assert len(inside) == 1 and "at the end of the model" in inside[0].fix
    between = asked(nn.Identity(), lambda z, y: with_logits(z.float().sigmoid(), y.float()), outputs=outputs)
    assert len(between) == 1 and "between model and loss" in between[0].fix
    flat = nn.Sequential(nn.Sigmoid(), nn.Flatten(0))
    assert len(asked(flat, with_logits, outputs=outputs)) == 1


SIGMOID_ONCE = {
    "logits": (nn.Identity(), with_logits),
    "a positive weight": (nn.Identity(), lambda z, y: with_logits(z, y, pos_weight=torch.tensor(3.0))),
    "probabilities": (nn.Sigmoid(), binary_cross_entropy),
    "squared error of probabilities": (nn.Sigmoid(), mse_loss),
    "logits above 0": (nn.ReLU(), with_logits),
    "logits from 0 to 1": (nn.Hardsigmoid(), with_logits),
    "smooth labels": (nn.Identity(), lambda z, y: with_logits(z, 0.9 * y + 0.05)),
    "squared error of sigmoid": (nn.Identity(), lambda z, y: mse_loss(z.sigmoid(), y)),
}


@pytest.mark.parametrize("name", SIGMOID_ONCE)
@pytest.mark.parametrize("outputs", [1, 6])
def test_one_sigmoid_is_silent(name: str, outputs: int) -> None:
    assert asked(*SIGMOID_ONCE[name], outputs=outputs) == []


# model's last layer, loss of its output and the targets -> whether a logarithm is missing
OF_PROBABILITIES: dict[str, tuple[nn.Module, Callable[[Tensor, Tensor], Tensor], bool]] = {
    "nll of probabilities": (nn.Softmax(-1), nll_loss, True),
    "nll of log-probabilities": (nn.LogSoftmax(-1), nll_loss, False),
    "nll of their logarithm": (nn.Softmax(-1), lambda p, t: nll_loss(p.log(), t), False),
    "one minus the probability": (nn.Softmax(-1), lambda p, t: (1 - p.gather(1, t[:, None])).mean(), False),
    "a reward of 1 or -1": (
        nn.Softmax(-1),
        lambda p, t: -(p.gather(1, t[:, None])[:, 0] * (t % 2 * 2 - 1)).mean(),
        False,
    ),
    "minus the logit": (nn.Identity(), lambda z, t: -z.gather(1, t[:, None]).mean(), False),
}


@pytest.mark.parametrize("case", OF_PROBABILITIES)
def test_a_logarithm_that_is_missing(case: str) -> None:
    last, loss_of, wrong = OF_PROBABILITIES[case]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with sightline.attach(model, optimizer, on_finding=None, budget=1.0, checks=load((page("T4"),))) as guard:
        for _ in range(4):
            optimizer.zero_grad()
            loss = loss_of(model(torch.randn(24, 8)), torch.arange(24) % 6)
            loss.backward()
            optimizer.step()
            guard.step(loss=loss)
    assert [one.message.endswith("it is below 0") for one in guard.findings] == [True] * wrong
