"""T1 through the door: matrices of a layer that no group of the optimizer got, while its biases did."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sightline
from sightline.guard.catalogue import load, page

pytestmark = pytest.mark.usefixtures("origins")
T1 = load((page("T1"),))


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.memory, self.head = nn.GRU(4, 16, batch_first=True), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.memory(x)[0][:, -1])


def found(decayed: Callable[[str], bool]) -> list[str]:
    torch.manual_seed(0)
    model = Tagger()
    named = dict(model.named_parameters())
    groups = [[p for n, p in named.items() if "bias" in n], [p for n, p in named.items() if decayed(n)]]
    optimizer = torch.optim.AdamW([{"params": part} for part in groups], lr=1e-2)
    with sightline.attach(model, optimizer, on_finding=None, checks=T1) as guard:
        for _ in range(24):
            x = torch.randn(16, 6, 4)
            optimizer.zero_grad()
            F.cross_entropy(model(x), x.sum((1, 2)).sign().long() + 1).backward()
            optimizer.step()
    return [f"{finding.code} {finding.seen['parameters'][0]}" for finding in guard.findings]


def test_groups_by_the_names_of_linear_layers() -> None:
    assert found(lambda name: name.endswith(".weight")) == ["T1 memory.weight_ih_l0"]
    assert not found(lambda name: "weight" in name)
