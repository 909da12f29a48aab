"""Each rank's tensor visits every rank, neighbour by neighbour, with gradients that find their way home.

A loss that is a sum over pairs (SigLIP) needs one other rank's texts at a time (arXiv 2303.15343, section 3.3): the
similarities of all pairs are never together in one place. Gradients are summed, by the convention of `gather.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from sightline.train.parallel.gather import row_counts
from sightline.train.parallel.ranks import Ranks


def ring(tensor: Tensor, ranks: Ranks, sizes: tuple[int, ...] | None = None) -> Iterator[tuple[int, Tensor]]:
    """(rank it is from, that rank's tensor), the own one first; each comes from the left neighbour.

    Ranks may hold unlike numbers of rows (`sizes`, where they are known already). Every rank must go through all of
    them, and run backward if any does.
    """
    if sizes is None:
        sizes = row_counts(ranks, len(tensor))
    yield ranks.rank, tensor
    for hop in range(1, ranks.world):
        source = (ranks.rank - hop) % ranks.world
        tensor = _Shift.apply(tensor, ranks, sizes[source])
        yield source, tensor


class _Shift(torch.autograd.Function):
    """To the right neighbour, and what the left one has; gradients the other way."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, ranks: Ranks, rows: int) -> Tensor:
        ctx.ranks, ctx.rows = ranks, len(tensor)
        return _shifted(tensor, ranks, 1, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _shifted(grad, ctx.ranks, -1, ctx.rows), None, None


def _shifted(tensor: Tensor, ranks: Ranks, by: int, rows: int) -> Tensor:
    """Send to the rank `by` further on; receive `rows` rows from the one `by` before."""
    received = tensor.new_empty((rows, *tensor.shape[1:]))
    onward, back = (ranks.rank + by) % ranks.world, (ranks.rank - by) % ranks.world
    sent = tensor.contiguous()
    transfers = []
    if sent.numel():
        transfers.append(dist.P2POp(dist.isend, sent, onward))
    if received.numel():
        transfers.append(dist.P2POp(dist.irecv, received, back))
    if transfers:
        for work in dist.batch_isend_irecv(transfers):
            work.wait()
    return received
