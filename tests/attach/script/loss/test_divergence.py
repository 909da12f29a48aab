"""Divergences whose input was to be logarithms, told by their graphs; and losses of probabilities that are meant so."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sightline
from sightline.attach.script.loss.divergence import show_divergence
from sightline.guard.catalogue import load, page

Loss = Callable[[Tensor, Tensor], Tensor]


def codes(loss: Loss, steps: int = 4) -> set[str]:
    """Of T4, for a student of soft answers. `show_divergence` is called as under `sightline run`."""
    torch.manual_seed(0)
    student, teacher = nn.Linear(6, 5), nn.Linear(6, 5)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    with sightline.attach(student, optimizer, on_finding=None, checks=load((page("T4"),))) as guard:
        for _ in range(steps):
            x = torch.randn(16, 6)
            with torch.no_grad():
                wanted = teacher(x)
            value = loss(student(x), wanted)
            show_divergence(value, guard._recorder)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    return {finding.code for finding in guard.findings}


def mixed(s: Tensor, t: Tensor) -> Tensor:
    soft = nn.KLDivLoss(reduction="batchmean")(F.softmax(s / 3, dim=1), F.softmax(t / 3, dim=1)) * 9
    return 0.9 * soft + 0.1 * F.cross_entropy(s, t.argmax(1))


def aligned(given: Tensor, target: Tensor) -> Tensor:
    """Four rows of four frames, with two symbols each."""
    symbols = target.argmax(-1).view(4, 4)[:, :2].clamp(min=1)
    return F.ctc_loss(given.view(4, 4, 5).transpose(0, 1), symbols, torch.full((4,), 4), torch.full((4,), 1))


WRONG: dict[str, Loss] = {
    "softmax": lambda s, t: F.kl_div(s.softmax(-1), t.softmax(-1), reduction="batchmean"),
    "a log target": lambda s, t: F.kl_div(s.softmax(-1), t.log_softmax(-1), reduction="sum", log_target=True),
    "one of two terms": mixed,
    "of a teacher that is mostly sure": lambda s, t: F.kl_div(s.softmax(-1), (t * 12).softmax(-1)),
    "in alignments": lambda s, t: aligned(s.softmax(-1), t),
    "in rows of words": lambda s, t: F.kl_div(s.view(4, 4, 5).softmax(-1), t.view(4, 4, 5).softmax(-1)),
}
RIGHT: dict[str, Loss] = {
    "log_softmax": lambda s, t: F.kl_div(s.log_softmax(-1), t.softmax(-1), reduction="batchmean"),
    "in alignments": lambda s, t: aligned(s.log_softmax(-1), t),
    "a logarithm of a softmax": lambda s, t: F.kl_div(s.softmax(-1).log(), t.softmax(-1), reduction="sum"),
    "halfway": lambda s, t: F.kl_div((0.5 * (s.softmax(-1) + t.softmax(-1))).log(), t.softmax(-1)),
    "absolute error": lambda s, t: (F.one_hot(t.argmax(-1), 5) - s.softmax(-1)).abs().mean(),
    "what is missed": lambda s, t: (lambda y: (y - y * s.softmax(-1)).sum(-1).mean())(F.one_hot(t.argmax(-1), 5)),
    "squares": lambda s, t: (t.softmax(-1) - s.softmax(-1)).square().mean(),
    "expected reward": lambda s, t: (t.mean() - t * s.softmax(-1)).mean(),
    "agreement": lambda s, t: -(s.softmax(-1) * t.softmax(-1)).sum(-1).log().mean(),
    "a mean of what is expected": lambda s, t: (t.softmax(-1) @ s.softmax(-1).T).neg().mean(),
}


@pytest.mark.filterwarnings("ignore:reduction")
@pytest.mark.parametrize("name", WRONG)
def test_probabilities_for_logarithms(name: str) -> None:
    assert codes(WRONG[name]) == {"T4"}


@pytest.mark.filterwarnings("ignore:reduction")
@pytest.mark.parametrize("name", RIGHT)
def test_losses_that_are_meant_so(name: str) -> None:
    assert codes(RIGHT[name]) == set()
