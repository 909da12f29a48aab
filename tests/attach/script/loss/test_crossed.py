"""Losses that compare each output with the targets of all samples by their shapes, and losses of pairs that mean to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sightline
from sightline.attach.hook import Hook
from sightline.attach.script.loss.crossed import Crossed
from sightline.guard.catalogue import load, page

Loss = Callable[[Tensor, Tensor], Tensor]
N = 16


def said(loss: Loss, given: nn.Module | None = None, shape: tuple[int, ...] = (5,)) -> list[str]:
    """By I5, of targets (n,) or (n, ...). `Crossed.look` is called as under `sightline run`."""
    torch.manual_seed(0)
    model: nn.Module = nn.Sequential(nn.Linear(5, N), nn.ReLU(), nn.Linear(N, 1)) if given is None else given
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    faults: list[Exception] = []
    crossed = Crossed(lambda act: Hook(act, faults.append))
    with sightline.attach(model, optimizer, on_finding=None, checks=load((page("I5"),))) as guard:
        for _ in range(4):
            x = torch.randn(N, *shape)
            value = loss(model(x), x[:, 0] - 2 * x.flatten(1)[:, 1].view(N, *(1 for _ in shape[1:])))
            crossed.look(value, [(guard._recorder, guard._recorder.open_step)])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    assert not faults
    return [finding.message for finding in guard.findings]


def huber(p: Tensor, y: Tensor) -> Tensor:
    gap = (p - y).abs()
    return torch.where(gap < 0.5, gap**2, gap - 0.25).mean()


def by_hand(p: Tensor, y: Tensor) -> Tensor:
    p, yes = p.sigmoid(), (y > 0).float()
    return -(yes * (p + 1e-6).log() + (1 - yes) * (1 - p + 1e-6).log()).mean()


def pinball(p: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(0.9 * (y - p), -0.1 * (y - p)).mean()


def gaussian(p: Tensor, y: Tensor) -> Tensor:
    mean, log_var = p.abs().sqrt(), 0.1 * p
    return ((y - mean).abs() * (-log_var).exp() + log_var).mean()


WRONG: dict[str, Loss] = {
    "huber by hand": huber,
    "huber": F.huber_loss,
    "smooth l1": F.smooth_l1_loss,
    "absolute": F.l1_loss,
    "log-cosh": lambda p, y: (y - p).cosh().log().mean(),
    "quantile": pinball,
    "yes or no by hand": by_hand,
    "hinge": lambda p, y: (1 - p * y.sign()).clamp(min=0).mean(),
    "root of squares": lambda p, y: torch.norm(p - y),
    "a variance of its own": gaussian,
    "weights of samples": lambda p, y: (F.mse_loss(p, y[:, None], reduction="none") * y.abs()).sum() / y.abs().sum(),
    "targets in a column": lambda p, y: huber(p.squeeze(1), y[:, None]),
    "one of two terms": lambda p, y: 0.5 * F.smooth_l1_loss(p, y) + 0.1 * p.square().mean(),
    "advantages": lambda p, y: -(F.logsigmoid(p) * y).mean(),
    "summed by sample": lambda p, y: (p - y).abs().sum(dim=1).mean(),
}


def info_nce(p: Tensor, y: Tensor) -> Tensor:
    logits = (p * y).exp()
    return -(logits.diagonal() / logits.sum(1)).log().mean()


def energy(p: Tensor, y: Tensor) -> Tensor:
    return (p - y).abs().mean() - 0.5 * (p - p.T).abs().mean()


def kernel(a: Tensor, b: Tensor) -> Tensor:
    return (-(a - b).square()).exp()


def cox(p: Tensor, y: Tensor) -> Tensor:
    later = (y[None] >= y[:, None]).float()
    return -(p.squeeze(1) - (later * p.squeeze(1).exp()).sum(1).log()).mean()


def auc(p: Tensor, y: Tensor) -> Tensor:
    p = p.squeeze(1)
    return F.softplus(p[y <= 0][None] - p[y > 0][:, None]).mean()


def ranks(p: Tensor, y: Tensor) -> Tensor:
    first = (y[:, None] > y[None]).float()
    return (F.softplus(-(p - p.T)) * first).sum() / first.sum()


def attended(p: Tensor, y: Tensor) -> Tensor:
    return ((p * y).softmax(-1) @ y - y).abs().mean()


def levels(p: Tensor, y: Tensor) -> Tensor:
    steps = torch.linspace(-2, 2, N)
    return F.binary_cross_entropy_with_logits(p - steps, (y[:, None] > steps).float())


def table(p: Tensor, y: Tensor) -> Tensor:
    return (p * torch.arange(1.0, 1 + N) - torch.randn(N, N)).abs().mean()


RIGHT: dict[str, Loss] = {
    "one shape": lambda p, y: huber(p, y[:, None]),
    "contrastive": lambda p, y: F.cross_entropy((p @ y[None]) / 0.1, torch.arange(N)),
    "contrastive by hand": info_nce,
    "supervised contrast": lambda p, y: -((p @ p.T).log_softmax(1) * (y[:, None] * y > 0)).mean(),
    "n pairs": lambda p, y: (1 + ((p * y) - (p * y).diagonal()[:, None]).exp().sum(1)).log().mean(),
    "pairs ranked": ranks,
    "pairs ranked by a margin": lambda p, y: ((p - p.T) * (y[:, None] - y).sign()).neg().add(1).clamp(min=0).mean(),
    "distances": lambda p, y: (torch.cdist(p, p) - (y[:, None] - y).abs()).abs().mean(),
    "differences": lambda p, y: ((p - p.T) - (y[:, None] - y)).abs().mean(),
    "mmd": lambda p, y: kernel(p, p.T).mean() - 2 * kernel(p, y[None]).mean(),
    "cross potential": lambda p, y: -kernel(p, y[None]).mean().log(),
    "energy distance": energy,
    "chamfer": lambda p, y: (p - y).abs().min(dim=1)[0].mean() + (p - y).abs().min(dim=0)[0].mean(),
    "density": lambda p, y: -kernel(p, y).mean(1).log().mean(),
    "attention over the batch": attended,
    "cox": cox,
    "cox with a mask": lambda p, y: (p.T.masked_fill(y[None] < y[:, None], -9).logsumexp(1) - p.squeeze(1)).mean(),
    "area under the curve": auc,
    "scores beside kept ones": lambda p, y: F.softplus(p.squeeze(1)[:, None] - y[None]).mean(),
    "ordered levels": levels,
    "a table": table,
    "a wide output": lambda p, y: (p * torch.ones(1, N) - torch.randn(N, N)).abs().mean(),
    "one target for all": lambda p, y: huber(p, torch.ones(N)),
    "covariance": lambda p, y: ((p - p.mean()).T @ (y - y.mean())[:, None]).square().mean(),
}


@pytest.mark.parametrize("name", WRONG)
def test_shapes_that_make_pairs(name: str) -> None:
    (message,) = said(WRONG[name])
    assert f"become ({N}, {N})" in message


@pytest.mark.parametrize("name", RIGHT)
def test_pairs_that_are_meant(name: str) -> None:
    assert said(RIGHT[name]) == []


def test_masks_without_the_channel_of_the_outputs() -> None:
    def net() -> nn.Module:
        return nn.Conv2d(3, 1, 3, padding=1)

    def focal(p: Tensor, y: Any) -> Tensor:
        return by_hand(p, y)

    (message,) = said(focal, net(), (3, 4, 4))
    assert "(16, 1, 4, 4) and (16, 4, 4) become (16, 16, 4, 4)" in message
    assert said(lambda p, y: focal(p, y[:, None]), net(), (3, 4, 4)) == []


def test_the_critic_beside_an_actor() -> None:
    torch.manual_seed(0)
    actor, critic = nn.Linear(5, 3), nn.Linear(5, 1)
    both = [torch.optim.Adam(net.parameters(), lr=1e-3) for net in (actor, critic)]
    crossed = Crossed(lambda act: Hook(act))
    checks = load((page("I5"),))
    ours, its = (
        sightline.attach(net, o, on_finding=None, checks=checks) for net, o in zip((actor, critic), both, strict=True)
    )
    for _ in range(4):
        x, returns = torch.randn(N, 5), torch.randn(N)
        policy = (actor(x).log_softmax(-1)[:, 0] * returns).mean()
        value = policy.neg() + F.smooth_l1_loss(critic(x), returns)
        crossed.look(value, [(guard._recorder, guard._recorder.open_step) for guard in (ours, its)])
        value.backward()
        for optimizer in both:
            optimizer.step()
            optimizer.zero_grad()
    ours.close(), its.close()
    assert ([f.code for f in ours.findings], [f.code for f in its.findings]) == ([], ["I5"])
