"""Losses that compare a model's vectors with another side's, told from losses on the vectors themselves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sightline.attach.onlookers.other_side import OtherSide

SEED = torch.Generator().manual_seed(0)
BANK, TABLE, FIXED = (torch.randn(size, 16, generator=SEED) for size in (8, 24, 24))
CLASSES, MANY = nn.Parameter(BANK.clone()), nn.Parameter(TABLE.clone())
OTHER, DEEP = nn.Linear(5, 16), nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 8))  # as wide as a batch
HEAD = nn.Linear(16, 8)
ONE, TWO = torch.randn(8, 5, generator=SEED), torch.randn(8, 5, generator=SEED)


def unit(vectors: Tensor) -> Tensor:
    return F.normalize(vectors, dim=-1)


def own(scores: Tensor) -> Tensor:
    return F.cross_entropy(scores, torch.arange(len(scores)))


def found(loss: Callable[..., Tensor], *calls: Tensor) -> bool:
    """Whether it is found in a step with these calls of one model."""
    side, tower = OtherSide(), nn.Linear(5, 16)
    outputs = [tower(rows) for rows in calls]
    for rows, output in zip(calls, outputs, strict=True):
        side.gave(rows, [output])
    side.backward(loss(*outputs))
    return side.found


@pytest.mark.parametrize(
    ("loss", "calls"),
    [
        (lambda z: own(2 * BANK @ unit(z).T), (ONE,)),
        (lambda z: torch.einsum("bd,kd->bk", z, BANK).logsumexp(1).mean(), (ONE,)),
        (lambda z: torch.cdist(z, BANK).mean(), (ONE,)),
        (lambda z: F.cosine_similarity(z[:, None], BANK[None], dim=-1).mean(), (ONE,)),
        (lambda z: own(unit(z) @ unit(OTHER(TWO)).T), (ONE,)),
        (lambda z: own(z[:, :8] @ DEEP(TWO).T), (ONE,)),
        (lambda z: own(z @ OTHER(torch.cat([TWO, ONE])).T), (ONE,)),
        (lambda z: own(z[:8] @ z[8:].T), (torch.cat([ONE, TWO]),)),
        (lambda a, b: own(a @ b.T), (ONE, TWO)),
        (lambda a, b: F.cosine_embedding_loss(a, b, torch.ones(8)), (ONE, TWO)),
        (lambda a, b: F.triplet_margin_loss(a, b, BANK), (ONE, TWO)),
    ],
)
def test_another_side(loss: Callable[..., Tensor], calls: tuple[Tensor, ...]) -> None:
    assert found(loss, *calls)


@pytest.mark.parametrize(
    ("loss", "calls"),
    [
        (lambda z: F.mse_loss(z, BANK), (ONE,)),
        (lambda z: own(z @ CLASSES.T), (ONE,)),  # as many classes as rows
        (lambda z: own(F.linear(unit(z), unit(CLASSES))), (ONE,)),
        (lambda z: own(F.linear(unit(z), unit(MANY))), (ONE,)),
        (lambda z: own(z @ FIXED.T), (ONE,)),  # prompts of 24 classes
        (lambda z: own(HEAD(z)), (ONE,)),
        (lambda z: (z.T @ z).square().mean(), (ONE,)),
        (lambda a, b: own(a) + own(b), (ONE, TWO)),
        (lambda a, b: own(torch.cat([a, b])), (ONE, TWO)),
        (lambda a, b: F.kl_div(a.log_softmax(1), b.softmax(1), reduction="batchmean") + own(a), (ONE, ONE)),
        (lambda a, b: -F.logsigmoid(a.sum(1) - b.sum(1)).mean(), (ONE, TWO)),  # of two answers the better one
    ],
)
def test_no_other_side(loss: Callable[..., Tensor], calls: tuple[Tensor, ...]) -> None:
    assert not found(loss, *calls)
