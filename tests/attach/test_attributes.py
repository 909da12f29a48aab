"""A flag that was set on a module, where torch does not look."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sightline


class Flagged(nn.Linear):
    """A module that keeps a flag of its own."""

    def __init__(self, requires_grad: bool = True) -> None:
        super().__init__(4, 4)
        self.requires_grad = requires_grad


@pytest.mark.parametrize("how", ["attribute", "method", "both", "a flag of its own", "trained before", "in part"])
@pytest.mark.usefixtures("origins")
def test_an_attribute_that_wakes_no_module(how: str) -> None:
    torch.manual_seed(0)
    block = Flagged() if how == "a flag of its own" else nn.Linear(4, 4)
    model = nn.Sequential(nn.Linear(4, 4), block, nn.Linear(4, 2))

    def steps(optimizer: torch.optim.Optimizer) -> None:
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(3, 4)).square().mean().backward()
            optimizer.step()

    if how == "trained before":
        model[1].requires_grad = True  # idle, for it learns
        steps(torch.optim.SGD(model.parameters(), lr=0.1))
    model.requires_grad_(False)
    model[2].requires_grad_(True)
    if how in ("attribute", "both", "in part"):
        model[1].requires_grad = True
    if how in ("method", "both"):
        model[1].requires_grad_(True)
    if how == "in part":
        model[1].weight.requires_grad_(True)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    with sightline.attach(model, optimizer, on_finding=None) as guard:
        steps(optimizer)
    codes = {finding.code: finding for finding in guard.findings}
    assert ("X1" in codes) == (how == "attribute")
    assert how != "attribute" or "'1' was given `requires_grad = True`" in codes["X1"].message
