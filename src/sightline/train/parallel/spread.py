"""A second model with the first one's weights, for an engine that takes a model apart."""

from __future__ import annotations

import copy

import torch.distributed as dist
from torch import nn

from sightline.models.vlm import VLM
from sightline.train.parallel.sharded import fill, whole

_KEPT = ("encoder", "pair_encoder", "answer_encoder", "spec")  # what a model knows beside its modules


def double(home: VLM) -> VLM:
    """A model of the same modules, whose parameters are others but share the memory of `home`'s.

    An engine that cuts its weights into parts copies each part, so both together take no more than one and a part.
    """
    home.set_gradient_checkpointing(False)  # which wraps methods that a copy would share
    memo: dict[int, object] = {id(p): nn.Parameter(p.data, p.requires_grad) for p in home.parameters()}
    for name in _KEPT:
        if (each := getattr(home, name, None)) is not None:
            memo[id(each)] = each
    return copy.deepcopy(home, memo)


def share_buffers(model: nn.Module) -> None:
    """Give every rank the first one's buffers, as DDP does: each saw other rows, and keeps statistics of its own."""
    for buffer in model.buffers():
        dist.broadcast(buffer, src=0)


def bring_home(away: VLM, home: VLM, keeps: bool) -> None:
    """Give `home` the weights of `away` that learn or follow (the others it has), and its buffers; all ranks must call.

    Args:
        keeps: whether this process is the one to write into `home`.
    """
    bring_buffers(away, home, keeps)
    own, follows = home.state_dict(), set(away.slow.parameters()) if away.slow is not None else ()
    for name, parameter in away.named_parameters():
        if parameter.requires_grad or parameter in follows:
            value = whole(parameter.detach())
            if keeps:
                fill(own[name], value.to(own[name].device))


def bring_buffers(away: VLM, home: VLM, keeps: bool) -> None:
    """Give `home` the saved buffers of `away`, as the first rank has them; all ranks must call (see `bring_home`)."""
    share_buffers(away)
    own = home.state_dict()
    for name, buffer in away.named_buffers() if keeps else ():
        if name in own:
            own[name].copy_(buffer)
