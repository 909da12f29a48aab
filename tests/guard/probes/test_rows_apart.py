"""Rows that are mixed up inside a model, whatever container its batch comes in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from sightline.attach.prints import row_hashes
from sightline.guard.checks.data.batch_collapsed import find
from sightline.guard.probes.call import Call
from sightline.guard.probes.rows import rows_apart


@dataclass
class Clips:
    frames: Tensor


class Named(NamedTuple):
    frames: Tensor


class Frames(nn.Module):
    """Clips of three frames; `mixed` puts frames of different clips together."""

    def __init__(self, *, mixed: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mixed, self.eye, self.head = mixed, nn.Linear(4, 8), nn.Linear(24, 2)

    def forward(self, batch: Any) -> Tensor:
        clips = batch["frames"] if isinstance(batch, dict) else batch.frames
        frames = clips.transpose(0, 1) if self.mixed else clips
        return self.head(self.eye(frames.reshape(-1, 4)).view(len(clips), -1).tanh())


@pytest.mark.parametrize("kind", [Clips, Named, lambda frames: {"frames": frames}])
def test_rows_in_containers(kind: Any) -> None:
    batch = kind(torch.randn(5, 3, 4))
    for mixed in (True, False):
        seen = rows_apart(Call(Frames(mixed=mixed), (batch,)), 8, varied=True)
        assert seen is not None and (max(seen.others) > 0) is mixed
    hashes = row_hashes(Call(nn.Identity(), (batch,)))
    assert hashes is not None and len(set(hashes.tolist())) == 5


class Spliced(nn.Module):
    """Features of pictures are written over the placeholders (token 9) of the batch, in order, as many as fit."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.eye, self.words, self.head = nn.Linear(4, 8), nn.Embedding(10, 8), nn.Linear(8, 5)

    def forward(self, tokens: Tensor, pictures: Tensor) -> Tensor:
        x = self.words(tokens)
        where = tokens == 9
        features = 0.01 * self.eye(pictures.flatten(2).mT).flatten(0, 1)
        x[where] = features[: int(where.sum())]
        return self.head(x.mean(dim=1))


@pytest.mark.parametrize("slots", [3, 4])
def test_features_that_go_on_into_the_next_row(slots: int) -> None:
    """Four features an image: with three places a row, the last of each image is the next row's first."""
    tokens = torch.cat([torch.full((8, slots), 9), torch.randint(0, 8, (8, 3))], dim=1)
    seen = rows_apart(Call(Spliced(), (tokens, torch.randn(8, 4, 2, 2))), 8, varied=True)
    assert seen is not None and (find(rows=seen) is not None) is (slots == 3)


class Pooled(nn.Module):
    """Words weighed by what is asked: each text's own, or, by a softmax along `dim` 0, all texts' of one place."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.dim, self.words, self.query, self.out = dim, nn.Embedding(50, 40), nn.Linear(40, 3), nn.Linear(120, 3)
        self.mix = nn.Sequential(nn.Linear(40, 40), nn.ReLU())

    def forward(self, ids: Tensor) -> Tensor:
        h = self.mix(self.words(ids))
        return self.out(torch.einsum("blk,bld->bkd", self.query(h).softmax(dim=self.dim), h).flatten(1))


@pytest.mark.parametrize("dim", [0, 1])
def test_a_weak_mix_is_no_jump(dim: int) -> None:
    """32 samples share what is weighed: each has a thirtieth of the change."""
    model = Pooled(dim)
    torch.manual_seed(7)
    seen = rows_apart(Call(model, (torch.randint(0, 50, (32, 12)),)), 8, varied=True)
    assert seen is not None and not seen.jumps
    assert (max(seen.others) > 0) is (dim == 0)
