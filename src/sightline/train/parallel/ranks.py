"""Data parallelism: the ranks of a run started by torchrun, or the one rank of a plain run."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sightline.errors import UserError
from sightline.recipe.schema import Parallel
from sightline.train.parallel.machines import Machine
from sightline.train.parallel.presence import Presence, present, there
from sightline.train.parallel.sharded import local

TIMEOUT: float = Parallel().timeout
LATE = 60.0  # seconds after the run's own timeout


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process's place among the `world` that are fed different rows, and the little they tell each other.

    Attributes:
        group: these ranks; None: all processes of the run.
        twin: this process's place among those that are fed the same rows, sharing the work on them.
    """

    rank: int
    world: int
    device: torch.device
    group: dist.ProcessGroup | None = None
    twin: int = 0

    @property
    def main(self) -> bool:
        """Whether this process writes files and talks to the user."""
        return self.rank == 0 and self.twin == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Element-wise sum of `values` over ranks, in float64."""
        if self.world == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)  # on the host: gloo carries it and no GPU is waited for
        dist.all_reduce(total, group=self.group)
        return [float(value) for value in total.tolist()]

    def barrier(self) -> None:
        """Wait until every process of the run is here, however long that takes, unless one of them dies."""
        if presence := present():
            presence.barrier()

    def share(self, text: str) -> str:
        """The main process's `text`, on every process of the run; waits as `barrier` does."""
        return presence.share(text) if (presence := present()) else text

    def average_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Average the gradients of `parameters` over ranks; a rank where one has none counts it as zero."""
        if self.world == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.average([local(parameter.grad) for parameter in parameters if parameter.grad is not None])

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Average each of `tensors` over ranks, in place."""
        if self.world == 1 or not tensors:
            return
        flat = torch._utils._flatten_dense_tensors(tensors)
        dist.all_reduce(flat, group=self.group)
        flat /= self.world
        for tensor, averaged in zip(tensors, torch._utils._unflatten_dense_tensors(flat, tensors), strict=True):
            tensor.copy_(averaged)

    def wrap(self, model: nn.Module) -> nn.Module:
        """`model` with its gradients averaged over ranks in the backward pass.

        Every trainable parameter takes part in every step (a batch without images touches the vision tower with
        weight zero), so DDP need not search for unused ones and a text-only rank cannot hang the others.
        """
        return model if self.world == 1 else DistributedDataParallel(model, gradient_as_bucket_view=True)


@contextlib.contextmanager
def accumulating(model: nn.Module) -> Iterator[None]:
    """Hold back the gradient exchange of all but a step's last micro-batch, where every rank has whole gradients.

    Where they are shared out (FSDP), a rank that held them back would hold all of them until the last one.
    """
    if isinstance(model, DistributedDataParallel):
        with model.no_sync():
            yield
    else:
        yield


@contextlib.contextmanager
def joined_ranks(device: str, timeout: float = TIMEOUT) -> Iterator[Ranks]:
    """The ranks of this run (torchrun's environment), joined for the length of the block.

    Args:
        device: "auto", "cpu", "cuda" or "mps".
        timeout: seconds that a rank waits for the others, at the start and in each exchange.

    Raises:
        UserError: a device that this machine does not have; ranks that never arrive, or cannot be in one run; in the
            block's place, what its error tells of ranks that are gone.
    """
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    chosen = pick_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if world == 1:
        yield Ranks(0, 1, chosen)
        return
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    presence = Presence(rank, world, Machine.here(chosen), timeout)
    with there(presence):
        try:
            _join(presence, chosen)
            if presence.rank == 0 and (unequal := presence.warning()):
                warnings.warn(unequal, stacklevel=3)
            yield Ranks(rank, world, chosen)
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()


def _join(presence: Presence, device: torch.device) -> None:
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        store=dist.PrefixStore("torch", presence.store),
        rank=presence.rank,
        world_size=presence.world,
        timeout=_limit(presence),
    )


def _limit(presence: Presence) -> timedelta:
    # A kernel of NCCL that waits for a dead peer wakes no thread of the host: `presence` ends the process after its
    # timeout, with a word, and torch's watchdog would after this one, without.
    late = LATE if presence.machines[presence.rank].device == "cuda" else 0.0
    return timedelta(seconds=presence.timeout + late)


def limit_waiting() -> None:
    """Give all groups of ranks the time-out of the run; torch gives those of a mesh half an hour."""
    if presence := present():
        groups = dist.distributed_c10d
        for group in list(groups._world.pg_map):
            groups._set_pg_timeout(_limit(presence), group)


def pick_device(wanted: str, local_rank: int = 0) -> torch.device:
    """The device a recipe asks for; "auto" takes the first of CUDA, MPS and CPU that is there."""
    have_cuda, have_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if wanted == "cuda" and not have_cuda:
        raise UserError("this machine has no CUDA device that torch can use", where="device", fix="set device=cpu")
    if wanted == "mps" and not have_mps:
        raise UserError("this machine has no MPS device", where="device", fix="set device=cpu")
    if wanted == "cuda" or (wanted == "auto" and have_cuda):
        return torch.device("cuda", local_rank)
    if wanted == "mps" or (wanted == "auto" and have_mps):
        return torch.device("mps")
    return torch.device("cpu")
