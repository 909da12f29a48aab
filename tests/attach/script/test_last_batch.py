"""A step of several batches that uses the gradient of the last one alone; and steps that clear gradients on purpose."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import sightline
from sightline.attach.feed import Feed
from sightline.guard.catalogue import load, page

SOUND = ("accumulated", "twice the same", "remembered", "a step aside", "put together", "no loader", "two loaders")
BATCHES = 4


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> list[Feed]:
    """What the door for scripts knows of loaders: the last of these."""
    known: list[Feed] = []
    monkeypatch.setattr(Feed, "source", lambda: known[-1] if known else None)
    return known


def batches(fed: list[Feed], case: str) -> Iterator[tuple[Tensor, Tensor]]:
    x = torch.randn(16 * 24, 6)
    loaders = [DataLoader(TensorDataset(x, (x[:, :1] > 0).float()), 16) for _ in range(2)]
    for place, (rows, targets) in enumerate(loaders[0]):
        if case != "no loader":
            loader = loaders[place % 2 if case == "two loaders" else 0]
            fed.append(Feed(loader, 0, 0.0, place))
        yield rows, targets


def findings(case: str, fed: list[Feed]) -> list[str]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    kept: list[Tensor] = []
    with sightline.attach(model, optimizer, on_finding=None, budget=1.0, checks=load((page("T2"),))) as guard:
        for place, (rows, targets) in enumerate(batches(fed, case)):
            for look in range(2 if case in ("twice the same", "remembered") else 1):
                if case != "accumulated" or place % BATCHES == 0:
                    optimizer.zero_grad()
                seen = rows.flip(0) if case == "remembered" and look == 0 else rows
                (nn.functional.mse_loss(model(seen), targets) / BATCHES).backward()
            if case == "put together":
                kept.append(model[0].weight.grad.clone())
            last = (place + 1) % BATCHES == 0
            if case == "a step aside" and not last:
                with torch.no_grad():
                    for p in model.parameters():
                        p += 0.05 * p.grad
            if last or case in ("twice the same", "remembered"):
                if case == "put together":
                    model[0].weight.grad.copy_(torch.stack(kept[-BATCHES:]).mean(0))
                nn.utils.clip_grad_norm_(model.parameters(), 0.01)
                optimizer.step()
    return [one.message for one in guard.findings]


def test_the_gradient_of_the_last_batch_alone(fed: list[Feed]) -> None:
    (found,) = findings("cleared", fed)
    assert found.startswith("4 batches pass between two steps, and the gradients of all but the last were cleared")


@pytest.mark.parametrize("case", SOUND)
def test_gradients_that_are_cleared_on_purpose(case: str, fed: list[Feed]) -> None:
    assert findings(case, fed) == []
