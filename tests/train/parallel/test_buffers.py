"""Statistics that ranks kept of their own rows are the first one's on all of them when a stage ends."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sightline.train.parallel.ranks import Ranks
from sightline.train.parallel.spread import share_buffers
from tests.train.parallel.processes import on_ranks

pytestmark = [pytest.mark.ddp, pytest.mark.slow]


def statistics(ranks: Ranks) -> tuple[Tensor, Tensor]:
    """A batch norm's mean before and after."""
    norm = nn.BatchNorm1d(4)
    norm(torch.full((8, 4), float(ranks.rank + 1)))
    assert norm.running_mean is not None
    before = norm.running_mean.clone()
    share_buffers(norm)
    return before, norm.running_mean


def test_the_first_ranks_statistics_are_everybodys(tmp_path: Path) -> None:
    ((first, second),) = on_ranks(2, [(statistics, ())], tmp_path)
    assert not torch.equal(first[0], second[0])
    assert torch.equal(first[1], first[0]) and torch.equal(second[1], first[0])
