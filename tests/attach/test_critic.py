"""A generator may be sampled in train mode; a model whose outputs another reads on may not be judged so."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sightline
from sightline.guard.catalogue import load, page


@pytest.mark.parametrize(("shown", "kinds"), [(True, {"passed", "not-run"}), (False, {"finding"})])
def test_samples_of_a_generator(shown: bool, kinds: set[str]) -> None:
    """With `shown`, the second model is given data of the same shape, too."""
    torch.manual_seed(0)
    first = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 6))
    second = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1))
    optimizers = [torch.optim.SGD(model.parameters(), lr=1e-2) for model in (first, second)]
    guards = [
        sightline.attach(model, optimizer, on_finding=None, budget=100.0, checks=load((page("T3"),)))
        for model, optimizer in zip((first, second), optimizers, strict=True)
    ]
    for number in range(24):
        if shown:
            (1 - second(torch.randn(8, 6))).relu().mean().backward()
        second(first(torch.randn(8, 4))).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if number % 8 == 7:
            with torch.no_grad():
                first(torch.randn(8, 4))
    for guard in guards:
        guard.close()
    assert {record["kind"] for record in guards[0].records()} <= kinds
