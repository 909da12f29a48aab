"""T1 through the door: parts under no_grad that the optimizer holds, and what only looks like them."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import sightline
from sightline.guard.catalogue import load, page

T1 = load((page("T1"),))
STEPS = 24


class Reader(nn.Module):
    """An encoder, a head, and by `how` what becomes of the encoder's graph."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.encoder, self.head = how, nn.Sequential(nn.Linear(8, 16), nn.Tanh()), nn.Linear(16, 3)
        self.pooler, self.teacher = nn.Linear(16, 16), nn.Sequential(nn.Linear(8, 16), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        if self.how == "no grad":
            with torch.no_grad():
                features = self.encoder(x)
        elif self.how == "checkpoint":
            features = checkpoint(self.encoder, x.requires_grad_(), use_reentrant=True)
        else:
            features = self.encoder(x)
        if self.how == "detached":
            features = features.detach()
        if self.how == "unused":
            self.pooler(features)
        if self.how == "average":
            with torch.no_grad():
                told = self.teacher(x)
            features = features + 0 * told
        if self.how == "another output":
            return {"logits": self.head(features), "pooled": self.pooler(features)}
        return self.head(features)


def found(model: Reader, held: Iterable[nn.Parameter]) -> list[str]:
    optimizer = torch.optim.AdamW(held, lr=1e-2, weight_decay=0.0)
    with sightline.attach(model, optimizer, on_finding=None, checks=T1) as guard:
        for _ in range(STEPS):
            x = torch.randn(16, 8)
            optimizer.zero_grad()
            out = model(x)
            F.cross_entropy(out["logits"] if isinstance(out, dict) else out, (x[:, 0] > 0).long()).backward()
            optimizer.step()
            with torch.no_grad():
                for mean, value in zip(model.teacher.parameters(), model.encoder.parameters(), strict=True):
                    mean.lerp_(value, 0.1)
    return [f"{finding.code} {finding.seen['parameters'][0]}" for finding in guard.findings]


@pytest.mark.parametrize("how", ["no grad", "detached"])
def test_an_encoder_that_is_optimized_in_vain(how: str) -> None:
    model = Reader(how)
    assert found(model, model.parameters()) == ["T1 encoder.0.weight"]


def test_an_encoder_that_is_left_out_on_purpose() -> None:
    for how in ("no grad", "detached"):
        model = Reader(how)
        assert not found(model, model.head.parameters())
        model.encoder.requires_grad_(False)
        assert not found(model, model.parameters())


@pytest.mark.parametrize("how", ["plain", "unused", "another output", "average", "checkpoint"])
def test_what_looks_alike(how: str) -> None:
    """Parts that are not called, called in vain, moved by an average, or run again with gradients."""
    model = Reader(how)
    assert not found(model, model.parameters())
