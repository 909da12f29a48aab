"""Layers that are unfrozen in mid-run: given to the optimizer, or forgotten."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sightline


@pytest.mark.parametrize("then", ["nothing", "a new group", "a new optimizer", "held from the first", "frozen again"])
def test_unfrozen_layers_need_an_optimizer(then: str) -> None:
    torch.manual_seed(0)
    body, head = nn.Sequential(nn.Linear(8, 16), nn.ReLU()), nn.Linear(16, 2)
    model = nn.Sequential(body, head)
    body.requires_grad_(False)
    held = model if then == "held from the first" else head
    optimizer = torch.optim.AdamW(held.parameters(), lr=1e-2)
    with sightline.attach(model, on_finding=None, budget=1.0) as guard:
        for step in range(24):
            if step == 8:
                body.requires_grad_(True)
                if then == "a new group":
                    optimizer.add_param_group({"params": body.parameters()})
                elif then == "a new optimizer":
                    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
            if step == 10 and then == "frozen again":
                body.requires_grad_(False)
            rows = torch.randn(16, 8)
            loss = nn.functional.cross_entropy(model(rows), (rows[:, 0] > 0).long())
            model.zero_grad()
            loss.backward()
            optimizer.step()
    found = [one for one in guard.findings if one.code == "T1"]
    assert bool(found) == (then == "nothing")
    assert all("were unfrozen by step 8" in one.message and "add_param_group" in one.fix for one in found)


def test_two_networks_that_take_turns() -> None:
    torch.manual_seed(0)
    makes, judges = nn.Linear(4, 8), nn.Linear(8, 1)
    model = nn.Sequential(makes, judges)
    optimizers = [torch.optim.Adam(part.parameters(), lr=1e-3) for part in (makes, judges)]
    with sightline.attach(model, on_finding=None, budget=1.0) as guard:
        for step in range(32):
            for place, part in enumerate((makes, judges)):
                part.requires_grad_(place == step % 2)
            loss = (model(torch.randn(16, 4)) - 1).square().mean()
            optimizers[step % 2].zero_grad()
            loss.backward()
            optimizers[step % 2].step()
    assert [one for one in guard.findings if one.code == "T1"] == []
