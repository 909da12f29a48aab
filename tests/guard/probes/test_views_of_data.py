"""Samples are views of all data: who copies one must not copy all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import Sampler

from sightline.guard.probes.epochs import _Copier, deals_anew
from sightline.guard.probes.fields import deep_copy

DATA = torch.zeros(1024, 3, 8, 8)
ROWS = [{"pixels": row, "label": torch.tensor(at % 3)} for at, row in enumerate(DATA)]


class Groups(Sampler[int]):
    """Knows the data, and deals them by the number of the epoch."""

    def __init__(self) -> None:
        self.rows, self.data, self.epoch, self.order = ROWS, DATA, 0, torch.arange(len(ROWS))

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        draws = torch.Generator().manual_seed(self.epoch)
        self.order[:] = self.order[torch.randperm(len(self.order), generator=draws)]
        return iter([at for at in self.order.tolist() if self.rows[at]["label"] == 0])


def test_a_copied_sample_has_memory_of_its_own_alone() -> None:
    twin: dict[str, Any] = deep_copy(ROWS[5])
    twin["pixels"].fill_(1)
    assert twin["pixels"].untyped_storage().nbytes() == 3 * 8 * 8 * 4
    assert not DATA.any() and twin["label"] == ROWS[5]["label"]


def test_a_sampler_that_knows_the_data() -> None:
    sampler = Groups()
    ours = _Copier().of(sampler)
    assert ours.order is not sampler.order and ours.rows is not sampler.rows
    assert ours.rows[7]["pixels"].data_ptr() == DATA[7].data_ptr() and ours.data is DATA
    sampler.order = torch.arange(len(ROWS))
    assert not deals_anew(sampler)  # it goes on from the order before
    assert torch.equal(sampler.order, torch.arange(len(ROWS)))
