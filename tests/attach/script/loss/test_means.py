"""Means of means where no cross-entropy can be read: soft targets, numbers, yes or no at each place of a mask."""

from __future__ import annotations

import pytest

from tests.attach.script.conftest import Codes

SCRIPT = """
import torch
from torch import nn
from torch.nn import functional as F

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))
teacher = nn.Linear(6, 3)
optimizer = torch.optim.SGD(net.parameters(), lr=0.05)

def batch(rows):
    lengths = torch.randint(3, 7, (rows,)) if torch.rand(()) < 0.5 else torch.randint(20, 30, (rows,))
    x = torch.randn(rows, 30, 6)
    with torch.no_grad():
        q = teacher(x).softmax(-1)
    return x, q, torch.arange(30)[None] < lengths[:, None]

for step in range(10):
    micro = [batch(3) for _ in range(4)]
    total = sum(keep.sum() for _, _, keep in micro)
    for x, q, keep in micro:
        z = net(x)
        soft = -(q * z.log_softmax(-1)).sum(-1)
        loss = LOSS
        loss.backward()
    optimizer.step()
    optimizer.zero_grad()
"""
WRONG = [
    "soft[keep].mean() / 4",
    "(soft * keep).sum() / keep.sum()",
    "F.kl_div(z.log_softmax(-1)[keep], q[keep], reduction='batchmean') / 4",
    "F.mse_loss(z[keep], q[keep]) / 4",
    "(z[keep] - q[keep]).abs().mean()",
    "F.binary_cross_entropy_with_logits(z, q.round(), reduction='none').mean(-1).masked_select(keep).mean() / 4",
    "((z - q).square() * keep[..., None]).sum() / keep.sum() / 12",
]
RIGHT = [
    "soft[keep].sum() / total",
    "(soft * keep).sum() / total",
    "F.mse_loss(z[keep], q[keep], reduction='sum') / total",
    "((soft * keep).sum(1) / keep.sum(1)).mean() / 4",  # each row counts the same
    "soft.mean() / 4",
    "(soft * keep).mean() / 4",
    "(soft * keep * x[..., 0].abs()).sum() / keep.sum() / 4",  # each place has a weight of its own
    "soft[soft > soft.median()].mean() + soft[keep].mean()",
]


def means(codes: Codes, loss: str) -> bool:
    """Whether T5 is told of this loss."""
    return any(code == "T5" for _, code in codes(SCRIPT.replace("LOSS", loss)))


def test_soft_targets(codes: Codes) -> None:
    assert means(codes, WRONG[0])
    assert not means(codes, RIGHT[0])


@pytest.mark.slow
@pytest.mark.parametrize("loss", WRONG[1:])
def test_masked_means_of_any_loss(codes: Codes, loss: str) -> None:
    assert means(codes, loss)


@pytest.mark.slow
@pytest.mark.parametrize("loss", RIGHT[1:])
def test_one_mean_of_all_or_of_rows(codes: Codes, loss: str) -> None:
    assert not means(codes, loss)
