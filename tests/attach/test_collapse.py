"""Representations that a loss compares with each other alone, and that came to be one; and those that are well."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sightline
from sightline.attach.onlookers.made_of import pooled
from sightline.guard.catalogue import load, page

STEPS = 60


def mlp(i: int, o: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(i, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, o))


class Twins(nn.Module):
    """Two views, a predictor. `stop`: the other branch is a target; `gives`: what forward returns."""

    def __init__(self, gives: str, *, stop: bool) -> None:
        super().__init__()
        self.encoder, self.predictor = mlp(16, 24), mlp(24, 24)
        self.gives, self.stop = gives, stop

    def forward(self, a: Tensor, b: Tensor) -> object:
        za, zb = self.encoder(a), self.encoder(b)
        pa, pb = self.predictor(za), self.predictor(zb)
        ta, tb = (za.detach(), zb.detach()) if self.stop else (za, zb)
        if self.gives == "unit":
            return tuple(F.normalize(one, dim=1) for one in (pa, tb, pb, ta))
        if self.gives == "tuple":
            return pa, tb, pb, ta
        found = loss(pa, tb, pb, ta)
        return {"loss": found, "z": za} if self.gives == "both" else found


def loss(pa: Tensor, tb: Tensor, pb: Tensor, ta: Tensor) -> Tensor:
    return -0.5 * (F.cosine_similarity(pa, tb).mean() + F.cosine_similarity(pb, ta).mean())


class Sum(nn.Module):
    """A classifier that returns its loss, over features that are all positive and much alike."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(mlp(16, 24), nn.Softplus()), nn.Linear(24, 8)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        wanted = a[:, :8].argmax(1)
        one, other = (self.head(self.body(x) + 20.0) for x in (a, b))
        return F.cross_entropy(one, wanted) + F.cross_entropy(other, wanted)


class Near(nn.Module):
    """Two regressions whose targets are one but for a hundredth."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp(16, 8)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return sum((F.mse_loss(self.body(x), 300 + a[:, :8]) for x in (a, b)), torch.zeros(()))


def codes(model: nn.Module) -> dict[str, str]:
    """What is said of a model trained on two views of some things."""
    torch.manual_seed(0)
    things = torch.randn(64, 16)
    opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.05)
    guard = sightline.attach(model, opt, on_finding=None, checks=load((page("M2"),)), budget=1.0)
    for _ in range(STEPS):
        a, b = (things + 0.3 * torch.randn(64, 16) for _ in range(2))
        given = model(a, b)
        found = given["loss"] if isinstance(given, dict) else loss(*given) if isinstance(given, tuple) else given
        opt.zero_grad()
        found.backward()
        opt.step()
    guard.close()
    assert not any(part._forward_hooks for part in model.modules())
    return {str(r["code"]): str(r["kind"]) for r in guard.records()}


class Pairs(nn.Module):
    """Two texts that belong together, by one encoder whose places the host pools itself. `others`: some do not."""

    def __init__(self, *, others: bool) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 24))
        self.others = others

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        wanted = torch.ones(len(a))
        if self.others:
            b = torch.cat([b[: len(b) // 2], b[len(b) // 2 :].roll(1, 0)])
            wanted[len(b) // 2 :] = 0.0
        keep = torch.rand(2, len(a), 4, 1) < 0.8
        one, other = (
            (self.encoder(x.unflatten(1, (4, 4))) * m).sum(1) / m.sum(1).clamp(min=1)
            for x, m in zip((a, b), keep, strict=True)
        )
        return F.mse_loss(F.cosine_similarity(one, other), wanted)


@pytest.mark.parametrize("others", [True, False])
def test_pairs_that_all_belong_together(others: bool) -> None:
    torch.manual_seed(0)
    assert codes(Pairs(others=others))["M2"] == ("passed" if others else "finding")


@pytest.mark.parametrize("weights", [[1.0, 0, 0], [0.5, 0.25, 0.25], [2.0, -1.0, 0]])
def test_what_a_host_pooled_is_told_by_its_gradient(weights: list[float]) -> None:
    torch.manual_seed(0)
    values = torch.randn(5, 3, 8, requires_grad=True)
    vector = (values * torch.tensor(weights)[:, None]).sum(1)
    vector.retain_grad()
    (vector.square().sum() + vector.sin().prod(1).sum()).backward()
    found, gradient = pooled(values.detach(), values.grad)
    torch.testing.assert_close(found, vector.detach())
    torch.testing.assert_close(gradient, vector.grad)


@pytest.mark.parametrize(("gives", "stop"), [("loss", False), ("both", False), ("unit", False), ("loss", True)])
def test_two_views(gives: str, stop: bool) -> None:
    torch.manual_seed(0)
    assert codes(Twins(gives, stop=stop))["M2"] == ("passed" if stop else "finding")


@pytest.mark.parametrize("kind", [Sum, Near])
def test_losses_that_know_targets(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    assert codes(kind())["M2"] != "finding"


class Variances(nn.Module):
    """Two views are drawn together, and numbers are to vary: over the samples, or over the numbers of one."""

    def __init__(self, over: int) -> None:
        super().__init__()
        self.body, self.over = nn.Sequential(mlp(16, 32), nn.ReLU(), nn.Linear(32, 12)), over

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        one, other = self.body(a), self.body(b)
        short = sum((F.relu(1 - (z.var(dim=self.over) + 1e-4).sqrt()).mean() for z in (one, other)), torch.zeros(()))
        return (F.mse_loss(one, other) * 25 + short * 5) / 100


@pytest.mark.parametrize("over", [0, 1])
def test_a_variance_over_the_wrong_dimension(over: int) -> None:
    torch.manual_seed(0)
    assert codes(Variances(over))["M2"] == ("finding" if over else "passed")
