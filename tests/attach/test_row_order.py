"""I5 where a tower gives its rows in another order: a loss that holds the wrong ones together, and losses that know."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sightline

ROWS = 16


class Pairs(nn.Module):
    """A text tower that sorts by the texts' length. `gives`: what it tells of that."""

    def __init__(self, gives: str) -> None:
        super().__init__()
        self.gives, self.eye, self.words = gives, nn.Linear(12, 16), nn.Embedding(20, 16, padding_idx=0)
        self.mix = nn.Linear(32, 4)

    def forward(self, pictures: Tensor, ids: Tensor) -> Any:
        order = (ids != 0).sum(1).argsort(descending=True)
        read = self.words(ids[order]).sum(1)
        if self.gives == "undone":
            read = read[order.argsort()]
        if self.gives == "row":
            return self.mix(torch.cat([self.eye(pictures), read], 1))
        scores = F.normalize(self.eye(pictures)) @ F.normalize(read).T * 5
        return (scores, order) if self.gives == "order" else scores


def found(gives: str) -> list[str]:
    torch.manual_seed(0)
    model = Pairs(gives)
    opt = torch.optim.Adam(model.parameters(), lr=1e-3)
    with sightline.attach(model, opt, on_finding=None) as guard:
        for _ in range(20):
            lengths, ids = torch.randint(2, 8, (ROWS,)), torch.randint(1, 20, (ROWS, 8))
            ids[torch.arange(8) >= lengths[:, None]] = 0
            given = model(torch.randn(ROWS, 12), ids)
            scores, order = given if gives == "order" else (given, torch.arange(ROWS))
            if gives == "known":
                order = lengths.argsort(descending=True)
            wanted = torch.randint(0, 4, (ROWS,)) if gives == "row" else order.argsort()
            opt.zero_grad()
            F.cross_entropy(scores, wanted).backward()
            opt.step()
    return [f.code for f in guard.findings if f.severity != "note"]


@pytest.mark.parametrize("gives", ["sorted", "row"])
def test_other_samples_meet(gives: str) -> None:
    assert "I5" in found(gives)


@pytest.mark.parametrize("gives", ["undone", "order", "known"])
def test_a_loss_that_finds_them(gives: str) -> None:
    """Rows are put back, or their order is given to whoever called, or the caller knows it."""
    assert found(gives) == []
