"""Rows that are mixed up inside a model, whatever container its batch comes in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from sightline.attach.prints import row_hashes
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
