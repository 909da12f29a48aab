"""I4 where experts have places for so many tokens of a batch: a sample makes room for others, and mixes with none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import sightline


class Experts(nn.Module):
    """The first tokens of the batch that want an expert get it."""

    def __init__(self, places: int) -> None:
        super().__init__()
        self.router, self.places = nn.Linear(16, 4), places
        self.experts = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, 1)
        weight, wanted = self.router(flat).softmax(-1).max(-1)
        out = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            at = (wanted == number).nonzero().flatten()[: self.places]
            out = out.index_add(0, at, expert(flat[at]) * weight[at, None])
        return x + out.view_as(x)


class Answerer(nn.Module):
    """Reads pictures and a question, or a question alone. `fault`: where it takes samples for something else."""

    def __init__(self, fault: str, places: int) -> None:
        super().__init__()
        self.fault, self.seen, self.words = fault, nn.Linear(12, 16), nn.Embedding(20, 16)
        self.experts, self.out = Experts(places), nn.Linear(16, 6)

    def forward(self, ids: Tensor, picture: Tensor | None = None) -> Tensor:
        if self.fault == "ids":
            ids = ids.view(ids.shape[1], ids.shape[0]).T
        x = self.words(ids)
        if picture is not None:
            x = torch.cat([self.seen(picture), x], dim=1)
        if self.fault == "softmax":
            x = x * x.softmax(dim=0)
        return self.out(self.experts(x).mean(1))


@pytest.mark.parametrize("fault", ["", "ids", "softmax"])
@pytest.mark.parametrize("pictures", [True, False], ids=["pictures", "text"])
@pytest.mark.parametrize("places", [20, 40])
def test_experts_with_so_many_places(places: int, pictures: bool, fault: str) -> None:
    torch.manual_seed(0)
    model = Answerer(fault, places)
    opt = torch.optim.Adam(model.parameters(), lr=1e-3)
    with sightline.attach(model, opt, on_finding=None) as guard:
        for _ in range(12):
            ids, classes = torch.randint(0, 20, (16, 6)), torch.randint(0, 6, (16,))
            opt.zero_grad()
            cross_entropy(model(ids, torch.randn(16, 9, 12) if pictures else None), classes).backward()
            opt.step()
    assert [finding.code for finding in guard.findings] == (["I4"] if fault else [])
