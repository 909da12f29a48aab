"""T3 through the door: spectral norm, evaluated before and after a pass in train mode has estimated it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm

import sightline


class Critic(nn.Module):
    def __init__(self, norm: object) -> None:
        super().__init__()
        self.look, self.turn = norm(nn.Conv2d(3, 8, 3)), norm(nn.ConvTranspose2d(8, 12, 3))  # type: ignore[operator]
        self.say = norm(nn.Linear(12, 1))  # type: ignore[operator]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.say(torch.relu(self.turn(torch.relu(self.look(x)))).mean((2, 3)))


def judge(net: nn.Module) -> None:
    net.eval()
    with torch.no_grad():
        net(torch.randn(4, 3, 8, 8))
    net.train()


def codes(
    before: str, *, norm: object = spectral_norm, steps: int = 3, frozen: bool = False, seed: int = 0
) -> list[str]:
    torch.manual_seed(seed)
    net = Critic(norm)
    if before == "judged":
        judge(net)
    elif before == "warm":
        net(torch.randn(2, 3, 8, 8))
        judge(net)
    opt = torch.optim.Adam(net.parameters(), lr=1e-3)
    with sightline.attach(net, opt, on_finding=None) as guard:
        if before == "judged while watched":
            judge(net)
        for _ in range(steps):
            net.train(not frozen)
            opt.zero_grad()
            net(torch.randn(8, 3, 8, 8)).square().mean().backward()
            opt.step()
        judge(net)
    return [f.code for f in guard.findings]


@pytest.mark.parametrize(
    ("before", "frozen"), [("judged", False), ("judged while watched", False), ("nothing", True)], ids=str
)
@pytest.mark.parametrize("seed", range(4))
def test_judged_before_it_was_estimated(before: str, frozen: bool, seed: int) -> None:
    assert "T3" in codes(before, frozen=frozen, seed=seed)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("how", ["nothing", "warm"])
def test_judged_after_training(how: str, seed: int) -> None:
    assert "T3" not in codes(how, seed=seed)
    assert "T3" not in codes(how, seed=seed, steps=1)


@pytest.mark.parametrize("norm", [parametrizations.spectral_norm, lambda m: m], ids=["that estimates at once", "none"])
@pytest.mark.parametrize("before", ["judged", "judged while watched", "nothing"])
def test_other_norms(norm: object, before: str) -> None:
    assert "T3" not in codes(before, norm=norm)
