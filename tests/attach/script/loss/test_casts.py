"""Autocast that the model is not called under; and autocast, or none, that a script means."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import sightline
from sightline.attach.script.loss.casts import LOOKS, PassedBy
from sightline.guard.catalogue import load, page

Step = Callable[["Net", Tensor, Tensor], Tensor]


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    own = torch.autocast.__enter__, torch.autocast.__exit__
    yield
    torch.autocast.__enter__, torch.autocast.__exit__ = own  # type: ignore[method-assign]


def half() -> Any:
    return torch.autocast("cpu", dtype=torch.bfloat16)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(6, 16), nn.ReLU()), nn.Linear(16, 4)
        self.scale = nn.Parameter(torch.ones(()))
        self.frozen = nn.Linear(6, 6).requires_grad_(False)

    def score(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.body(x))
        return scores

    def forward(self, x: Tensor) -> Tensor:
        return self.score(x)


class Wrapped(Net):
    """As accelerate does it."""

    @half()
    def forward(self, x: Tensor) -> Tensor:
        return self.score(x)


def told(step: Step, net: Net | None = None) -> list[str]:
    """By P7, after a few steps. `PassedBy` is called as under `sightline run`."""
    torch.manual_seed(0)
    net, look, problems = net or Net(), PassedBy(), list[Exception]()
    look.blocks.install(problems.append)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with sightline.attach(net, optimizer, on_finding=None, checks=load((page("P7"),)), budget=1.0) as guard:
        for _ in range(LOOKS + 2):
            guard._recorder.open_step or guard._recorder.begin()
            loss = step(net, torch.randn(8, 6), torch.randint(0, 4, (8,)))
            look.look(loss, guard._recorder)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert not problems
    return [one.message for one in guard.findings]


def around_the_loss(net: Net, x: Tensor, y: Tensor) -> Tensor:
    scores = net(x)
    with half():
        return F.cross_entropy(scores, y)


def around_the_sum(net: Net, x: Tensor, y: Tensor) -> Tensor:
    loss = F.cross_entropy(net(x), y)
    with half():
        return loss * 0.5


@pytest.mark.parametrize("step", [around_the_loss, around_the_sum])
def test_a_model_called_before_the_block(step: Step) -> None:
    (message,) = told(step)
    assert "around the loss alone: all 2 matrix products ran in float32" in message


def test_a_method_in_place_of_the_forward() -> None:
    (message,) = told(lambda net, x, y: F.cross_entropy(net.score(x), y), Wrapped())
    assert "around a forward that is not called" in message


def within(net: Net, x: Tensor, y: Tensor) -> Tensor:
    with half():
        return F.cross_entropy(net(x), y)


def called_within(net: Net, x: Tensor, y: Tensor) -> Tensor:
    with half():
        scores = net(x)
    return F.cross_entropy(scores.float(), y)


def frozen_within(net: Net, x: Tensor, y: Tensor) -> Tensor:
    with half():
        features = net.frozen(x)
    return F.cross_entropy(net(features.float()), y)


def head_within(net: Net, x: Tensor, y: Tensor) -> Tensor:
    features = net.body(x)
    with half():
        return F.cross_entropy(net.head(features), y)


def off(net: Net, x: Tensor, y: Tensor) -> Tensor:
    scores = net(x)
    with torch.autocast("cpu", enabled=False):
        return F.cross_entropy(scores, y)


def off_inside(net: Net, x: Tensor, y: Tensor) -> Tensor:
    with half(), torch.autocast("cpu", enabled=False):
        return F.cross_entropy(net.score(x), y)


def elsewhere(net: Net, x: Tensor, y: Tensor) -> Tensor:
    scores = net(x)
    with torch.no_grad(), half():
        F.cross_entropy(net(x), y)
    return F.cross_entropy(scores, y)


def scaled_within(net: Net, x: Tensor, y: Tensor) -> Tensor:
    scores = net(x)
    with half():
        return F.cross_entropy(scores * net.scale, y)


def recomputed(net: Net, x: Tensor, y: Tensor) -> Tensor:
    with half():
        features = checkpoint(net.body, x.requires_grad_(), use_reentrant=True)
    return F.cross_entropy(features.float() @ torch.eye(16) @ net.head.weight.t(), y)


@pytest.mark.parametrize(
    "step", [scaled_within, recomputed, within, called_within, frozen_within, head_within, off, off_inside, elsewhere]
)
def test_sound_ones(step: Step) -> None:
    assert told(step) == []


@pytest.mark.parametrize("context", [nullcontext, half])
def test_a_forward_that_is_called(context: Callable[[], AbstractContextManager[object]]) -> None:
    def step(net: Net, x: Tensor, y: Tensor) -> Tensor:
        with context():
            return F.cross_entropy(net(x), y)

    assert told(step, Wrapped()) == []


def test_a_forward_that_is_called_and_recomputed() -> None:
    class Recomputed(Wrapped):
        def score(self, x: Tensor) -> Tensor:
            scores: Tensor = self.head(self.body(x))
            return scores

        @half()
        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = checkpoint(self.score, x.requires_grad_(), use_reentrant=True)
            return found

    assert told(lambda net, x, y: F.cross_entropy(net(x).float() @ torch.eye(4) @ torch.eye(4), y), Recomputed()) == []
