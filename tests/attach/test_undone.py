"""A tower that is loaded by a constructor which then draws all weights anew: X1."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import sightline
from sightline.guard.catalogue import load, page

pytestmark = pytest.mark.usefixtures("origins")


def tower() -> nn.Sequential:
    return nn.Sequential(*(layer for _ in range(4) for layer in (nn.Linear(8, 8), nn.Tanh())))


def trained() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {name: value + 0.1 for name, value in tower().state_dict().items()}


def init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)


class Model(nn.Module):
    def __init__(self, state: dict[str, Tensor], how: str) -> None:
        super().__init__()
        self.tower, self.head = tower(), nn.Linear(8, 3)
        self.tower.load_state_dict(state)
        if how == "all":
            self.apply(init)
        if how == "the head":
            self.head.apply(init)
        if how == "the last layers":
            self.tower[4:].apply(init)
        if how == "loaded after it":
            self.apply(init)
            self.tower.load_state_dict(state)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.tower(x))


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("how", ["all", "the head", "the last layers", "loaded after it", "by a script, later"])
def test_what_was_loaded_is_drawn_anew(how: str, frozen: bool) -> None:
    model = Model(trained(), how)
    if how == "by a script, later":  # a run from scratch, beside one that was loaded
        model.apply(init)
    model.tower.requires_grad_(not frozen)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    with sightline.attach(model, optimizer, on_finding=None, checks=load((page("X1"),))) as guard:
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(4, 8)).square().mean().backward()
            optimizer.step()
    found = [finding for finding in guard.findings if "drawn anew" in finding.message]
    assert bool(found) == (how == "all")
    assert not found or "4 matrices" in found[0].message
