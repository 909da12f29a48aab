"""Representations that collapse: their loss compares them with each other alone; and losses that keep them apart."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sightline

pytestmark = pytest.mark.slow  # many settings of rules that quick tests prove in one

STEPS, ROWS = 120, 32
Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class Siamese(nn.Module):
    """Two views in, vectors of both and what a predictor makes of them out."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(12, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 16))
        self.guess = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 16))

    def forward(self, one: Tensor, other: Tensor) -> tuple[Tensor, ...]:
        vectors = self.body(one), self.body(other)
        return *vectors, *map(self.guess, vectors)


def views() -> tuple[Tensor, Tensor]:
    seen = torch.randn(ROWS, 12)
    return seen + torch.randn_like(seen), seen + torch.randn_like(seen)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return -F.cosine_similarity(a, b).mean()


def attracted(za: Tensor, zb: Tensor, pa: Tensor, pb: Tensor) -> Tensor:
    return cosine(pa, zb) + cosine(pb, za)


def stopped(za: Tensor, zb: Tensor, pa: Tensor, pb: Tensor) -> Tensor:
    return cosine(pa, zb.detach()) + cosine(pb, za.detach())


def alike(za: Tensor, zb: Tensor, pa: Tensor, pb: Tensor) -> Tensor:
    return 10 * F.mse_loss(za, zb)


def varied(za: Tensor, zb: Tensor, pa: Tensor, pb: Tensor) -> Tensor:
    return alike(za, zb, pa, pb) + 10 * sum(F.relu(1 - z.std(0)).mean() for z in (za, zb))


def contrasted(za: Tensor, zb: Tensor, pa: Tensor, pb: Tensor) -> Tensor:
    return F.cross_entropy(F.normalize(za) @ F.normalize(zb).T / 0.2, torch.arange(ROWS))


def told(loss: Loss, lr: float = 0.1) -> list[str]:
    torch.manual_seed(0)
    model = Siamese()
    opt = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    with sightline.attach(model, opt, on_finding=None) as guard:
        for _ in range(STEPS):
            opt.zero_grad()
            loss(*model(*views())).backward()
            opt.step()
    return [f.code for f in guard.findings]


@pytest.mark.parametrize(("loss", "lr"), [(attracted, 0.2), (alike, 0.1)])
def test_nothing_holds_them_apart(loss: Loss, lr: float) -> None:
    assert told(loss, lr) == ["M2"]


@pytest.mark.parametrize("loss", [stopped, varied, contrasted])
def test_something_does(loss: Loss) -> None:
    assert told(loss) == []


def test_a_run_that_stands_still() -> None:
    assert told(attracted, lr=1e-7) == []


def test_a_critic_far_from_zero() -> None:
    """Scores of two batches, drawn apart: their offset is nobody's business."""
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Linear(12, 32), nn.Tanh(), nn.Linear(32, 8))
    opt = torch.optim.Adam(critic.parameters(), lr=1e-3)
    with torch.no_grad():
        critic[2].bias.fill_(30.0)
    with sightline.attach(critic, opt, on_finding=None) as guard:
        for _ in range(STEPS):
            opt.zero_grad()
            (critic(torch.randn(ROWS, 12)).mean() - critic(torch.randn(ROWS, 12) + 1).mean()).backward()
            opt.step()
    assert [f.code for f in guard.findings] == []
