"""All ranks' tensors on every rank, with gradients.

**Sums.** What comes back to a rank in the backward pass is the sum of all ranks' gradients with respect to its part. If
each rank's loss is the sum over its own rows, a rank's embeddings then get the gradient of the sum over all rows, as in
one big batch. `train/step.py` multiplies by world / count because DDP averages parameter gradients; that factor is the
same on all ranks and passes through. Nothing here averages.

Ranks may hold unlike numbers of rows, also none. Several tensors go in one call, so that their exchanges happen in one
order on all ranks in both directions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from sightline.errors import UserError
from sightline.train.parallel.ranks import Ranks


@dataclass(frozen=True, slots=True)
class Gathered:
    """What all ranks hold.

    Attributes:
        tensors: the rows of all ranks in the order of ranks, one tensor for each that was given.
        start: where this rank's own rows begin.
        sizes: rows of each rank.
    """

    tensors: tuple[Tensor, ...]
    start: int
    sizes: tuple[int, ...]


def gather(ranks: Ranks, *tensors: Tensor, sizes: tuple[int, ...] | None = None) -> Gathered:
    """Concatenate each of `tensors` (b, ...) over ranks to (M, ...); gradients reach the rank that owns a row.

    On one rank the tensors come back as the objects they are. Every rank must call with as many tensors of the same
    types and trailing shapes, and run backward through the result if any does.

    Args:
        sizes: rows of each rank, where they are known already (`row_counts`); else the ranks tell each other.

    Raises:
        UserError: tensors of unlike length on this rank.
    """
    rows = {len(tensor) for tensor in tensors}
    if len(rows) != 1:
        raise UserError(f"tensors of {sorted(rows)} rows cannot be gathered together", where="gather")
    if sizes is None:
        sizes = row_counts(ranks, len(tensors[0]))
    if ranks.world == 1:
        return Gathered(tensors, 0, sizes)
    return Gathered(_Gather.apply(ranks, sizes, *tensors), sum(sizes[: ranks.rank]), sizes)


def row_counts(ranks: Ranks, rows: int) -> tuple[int, ...]:
    """How many rows each rank holds."""
    return tuple(int(n) for n in ranks.sum([float(rows) if rank == ranks.rank else 0.0 for rank in range(ranks.world)]))


def log_sum_exp(ranks: Ranks, own: Tensor) -> Tensor:
    """Of each place's numbers on all ranks, the logarithm of the sum of their exponentials; without gradients.

    It is added up in the order of ranks, so all ranks have the same bits.
    """
    if ranks.world == 1:
        return own
    found = [torch.empty_like(own) for _ in range(ranks.world)]
    dist.all_gather(found, own.contiguous())
    return torch.stack(found).logsumexp(0)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ranks: Ranks, sizes: tuple[int, ...], *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.rank, ctx.sizes = ranks.rank, sizes
        whole = tuple(_concatenated(tensor, sizes) for tensor in tensors)
        ctx.mark_non_differentiable(*(tensor for tensor in whole if not tensor.is_floating_point()))
        return whole

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[2:]
        return (
            None,
            None,
            *(_own_sum(g, ctx.rank, ctx.sizes) if want else None for g, want in zip(grads, wanted, strict=True)),
        )


def _concatenated(tensor: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Rows of all ranks. Collectives want equal shapes, so shorter ones are padded on the way."""
    longest = max(sizes)
    padded = tensor.new_zeros((longest, *tensor.shape[1:]))
    padded[: len(tensor)] = tensor
    parts = [torch.empty_like(padded) for _ in sizes]
    if longest:
        dist.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def _own_sum(grad: Tensor, rank: int, sizes: tuple[int, ...]) -> Tensor:
    """The sum over ranks of the gradients of this rank's rows, always added in the order of ranks."""
    own = sizes[rank]
    received = grad.new_empty((len(sizes) * own, *grad.shape[1:]))
    dist.all_to_all_single(received, grad.contiguous(), [own] * len(sizes), list(sizes))
    return received.view(len(sizes), own, *grad.shape[1:]).sum(0)
