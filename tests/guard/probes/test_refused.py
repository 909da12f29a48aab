"""A model that refuses a probe's batch leaves one question open; a mistake of the probe's own is raised."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sightline.guard.probes.call import Call
from sightline.guard.probes.refused import refusable
from sightline.guard.probes.rows import rows_apart


class Picky(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        assert len(x.unique(dim=0)) == len(x), "every sample once"
        return self.out(x)


def test_a_model_that_takes_no_sample_twice() -> None:
    model, rows = Picky(), torch.randn(4, 4)
    before = torch.get_rng_state()
    assert rows_apart(Call(model, (rows,)), 0, varied=True) is None
    assert model.training and torch.equal(before, torch.get_rng_state())


def test_a_mistake_of_the_probe_is_no_refusal() -> None:
    @refusable
    def probe() -> int | None:
        Picky()(torch.randn(2, 4))
        raise KeyError("ours")

    with pytest.raises(KeyError, match="ours"):
        probe()
