"""A layer that is unfrozen when the optimizer is already made."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sightline
from sightline.attach.script.origins import rests
from sightline.guard.catalogue import load, page

pytestmark = pytest.mark.usefixtures("origins")
SOUND = ("before", "given", "by another", "all of it", "a table")


def findings(case: str) -> list[str]:
    torch.manual_seed(0)
    first: nn.Module = nn.Embedding(6, 16) if case == "a table" else nn.Linear(6, 16)
    model = nn.Sequential(first, nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 2))
    model.requires_grad_(False)
    model[3].requires_grad_(True)
    woken = model if case == "all of it" else model[0 if case == "a table" else 1]
    if case == "before":
        woken.requires_grad_(True)
    optimizers = [torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)]
    rests(list(model.modules()), ())  # as the scout tells when one is made
    woken.requires_grad_(True)
    if case == "given":
        optimizers[0].add_param_group({"params": model[1].parameters()})
    elif case == "by another":
        optimizers.append(torch.optim.Adam(model[1].parameters(), lr=1e-2))
        rests(list(model.modules()), ())
    with sightline.attach(model, optimizers[0], on_finding=None, budget=1.0, checks=load((page("T1"),))) as guard:
        for _ in range(18):
            rows = torch.randn(8, 6)
            model.zero_grad()
            seen = rows.argmax(1) if case == "a table" else rows
            nn.functional.cross_entropy(model(seen), (rows[:, 0] > 0).long()).backward()
            for optimizer in optimizers:
                optimizer.step()
    return [f"{one.severity}: {one.message}" for one in guard.findings]


def test_a_layer_that_was_unfrozen_too_late() -> None:
    (found,) = findings("after")
    assert found.startswith("error: 2 parameters") and "after the optimizer was made" in found and "1.weight" in found


@pytest.mark.parametrize("case", SOUND)
def test_layers_that_are_in_an_optimizer_or_need_not_be(case: str) -> None:
    assert findings(case) == []
