"""Pairs of a batch that find each other: the first loss of vectors that nobody brought to one length."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sightline
from sightline.attach.onlookers.pair_scores import PairScores
from sightline.guard.check import Finding

SCORES = {
    "sharp": lambda i, t, s: s * i @ t.T,
    "sharp, after": lambda i, t, s: s * (i @ t.T),
    "divided": lambda i, t, s: (i @ t.T) / 0.07,
    "unit": lambda i, t, s: s * F.normalize(i) @ F.normalize(t).T,
    "plain": lambda i, t, s: i @ t.T,
    "tempered": lambda i, t, s: i @ t.T / i.shape[1] ** 0.5,
}


class Two(nn.Module):
    def __init__(self, kind: str, size: float) -> None:
        super().__init__()
        self.eye, self.reader, self.kind, self.size = nn.Linear(24, 32), nn.Linear(16, 32), kind, size
        self.scale = nn.Parameter(torch.tensor(14.0))

    def forward(self, images: Tensor, texts: Tensor) -> Tensor:
        logits = SCORES[self.kind](self.size * self.eye(images), self.reader(texts), self.scale)
        target = torch.arange(len(logits))
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def told(kind: str, size: float) -> list[str]:
    torch.manual_seed(0)
    model, found = Two(kind, size), list[Finding]()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    with sightline.attach(model, optimizer, on_finding=found.append) as guard:
        looks = next(one for one in guard._recorder.onlookers.all if isinstance(one, PairScores))
        for _ in range(2):
            loss = model(torch.randn(16, 24), torch.randn(16, 16))
            looks.backward(loss)  # the door for scripts says so
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return [one.message for one in found if one.code == "T7"]


@pytest.mark.parametrize(
    "kind", [name if name in ("sharp", "unit") else pytest.param(name, marks=pytest.mark.slow) for name in SCORES]
)
def test_pairs(kind: str) -> None:
    messages = told(kind, 4.0)
    assert len(messages) == (kind in ("sharp", "sharp, after", "divided"))
    assert all("any length" in message for message in messages)


@pytest.mark.slow
def test_vectors_that_are_small_enough() -> None:
    assert told("sharp", 0.02) == []
