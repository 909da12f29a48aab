"""Functions run on several real processes that are joined over gloo."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sightline.models.temperature import Temperature
from sightline.train.parallel.ranks import Ranks, joined_ranks
from tests.ports import free_port
from tests.spawned import spawn

Job = tuple[Callable[..., Any], tuple[Any, ...]]  # a function of (ranks, *args) and its args


def on_ranks(world: int, jobs: Sequence[Job], out: Path, machine: int | None = None) -> list[list[Any]]:
    """Run the jobs one after the other on each of `world` processes; what each job returned on each rank.

    Args:
        machine: how many of them take themselves for the processes of one machine; None: all.
    """
    port = free_port()
    spawn(_enter, (port, world, list(jobs), str(out), machine or world), nprocs=world)
    by_rank = [torch.load(out / f"{rank}.pt") for rank in range(world)]
    return [list(found) for found in zip(*by_rank, strict=True)]


def _enter(rank: int, port: int, world: int, jobs: list[Job], out: str, machine: int) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"LOCAL_RANK": str(rank % machine), "LOCAL_WORLD_SIZE": str(machine)}
    torch.set_num_threads(1)
    with joined_ranks("cpu") as ranks:
        torch.save([work(ranks, *args) for work, args in jobs], f"{out}/{rank}.pt")


class Towers(nn.Module):
    """Two linear towers, a temperature and a bias."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.vision, self.language, self.temperature = nn.Linear(16, 8), nn.Linear(16, 8), Temperature()
        self.bias = nn.Parameter(torch.tensor(-2.71))

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        unit = nn.functional.normalize
        return unit(self.vision(image), dim=-1), unit(self.language(text), dim=-1), self.temperature(), self.bias * 1


def own_part(ranks: Ranks, sizes: Sequence[int]) -> slice:
    """The rows of this rank."""
    start = sum(sizes[: ranks.rank])
    return slice(start, start + sizes[ranks.rank])
