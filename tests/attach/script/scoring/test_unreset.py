"""Metrics that go on from one evaluation to the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torchmetrics import MaxMetric, MeanMetric
from torchmetrics.aggregation import BaseAggregator
from torchmetrics.classification import MulticlassAccuracy

import sightline
from sightline.attach.phases.state import State
from sightline.attach.script.scoring.unreset import Unreset


@pytest.fixture(autouse=True)
def faults() -> Iterator[list[str]]:
    told: list[str] = []
    one, before = Unreset(told.append), State.audience
    one.install()
    yield told
    one.close()
    assert State.audience is before and not told


Told = Callable[[Any, int], None]
WAYS: dict[str, tuple[bool, Told]] = {
    "never set back": (True, lambda metric, epoch: metric.compute()),
    "set back at last": (True, lambda metric, epoch: (metric.compute(), metric.reset() if epoch > 2 else None)),
    "set back": (False, lambda metric, epoch: (metric.compute(), metric.reset())),
    "of all epochs, told at the end": (False, lambda metric, epoch: metric.compute() if epoch == 3 else None),
}


class OfAHost(MulticlassAccuracy):
    """Begins anew in a way of its own, as Lightning's metrics of logged values do."""

    def reset(self) -> None:
        self.tp.zero_()


def codes(
    told: Told, steps: int = 5, grows: bool = False, trained: bool = False, kind: type[Any] = MulticlassAccuracy
) -> list[str]:
    """Four epochs. grows: more is evaluated each time. trained: the metric is of training, and runs on."""
    torch.manual_seed(0)
    gathers = issubclass(kind, BaseAggregator)
    net, metric = nn.Linear(6, 3), kind() if gathers else kind(3)
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    with sightline.attach(net, opt, on_finding=None) as guard:
        for epoch in range(4):
            for _ in range(steps):
                x = torch.randn(8, 6)
                opt.zero_grad()
                logits = net(x)
                nn.functional.cross_entropy(logits, x[:, :3].argmax(1)).backward()
                opt.step()
                if trained:
                    metric.update(logits, x[:, :3].argmax(1))
            with torch.no_grad():
                for _ in range(3 + epoch if grows else 3):
                    x = torch.randn(8, 6)
                    logits = net(x)
                    if gathers:
                        metric.update(nn.functional.cross_entropy(logits, x[:, :3].argmax(1)))
                    elif not trained:
                        metric.update(logits, x[:, :3].argmax(1))
            told(metric, epoch)
    return [f.code for f in guard.findings if f.code == "M3"]


@pytest.mark.parametrize("name", WAYS)
def test_when_it_is_set_back(name: str) -> None:
    found, told = WAYS[name]
    assert codes(told) == (["M3"] if found else [])


def test_what_runs_on_by_design() -> None:
    """An answer before each step is judged; or each evaluation is of more rows; or training is what is counted."""
    told = WAYS["never set back"][1]
    assert codes(told, steps=1) == [] == codes(told, grows=True) == codes(told, trained=True)
    set_back = WAYS["set back"][1]
    assert codes(set_back, kind=OfAHost) == []


@pytest.mark.parametrize(("kind", "found"), [(MeanMetric, ["M3"]), (MaxMetric, [])])
def test_what_gathers_numbers(kind: type[BaseAggregator], found: list[str]) -> None:
    """The best so far is of a whole run; a mean of losses is of an evaluation."""
    assert codes(lambda metric, _: metric.compute(), kind=kind) == found
