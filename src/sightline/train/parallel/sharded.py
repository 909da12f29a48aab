"""Tensors that lie on several ranks: this rank's part, the whole, and norms over all of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor


def local(tensor: Tensor) -> Tensor:
    """What this rank holds of `tensor`."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of `tensor`, on every rank that holds some of it; each of them must call."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def fill(tensor: Tensor, value: Tensor) -> None:
    """Set `tensor`, wherever it lies, to `value`, which every rank has whole."""
    with torch.no_grad():
        if isinstance(tensor, DTensor):
            device = tensor.to_local().device
            part = distribute_tensor(value.to(device), tensor.device_mesh, tensor.placements, src_data_rank=None)
            tensor.to_local().copy_(part.to_local())
        else:
            tensor.copy_(value)


def norm(tensors: Sequence[Tensor]) -> Tensor:
    """L2 norm of all of them together, 0-dim. Ranks that hold parts of them must all call.

    Tensors of unlike meshes (or of none) are never in one operation, which DTensor refuses.
    """
    apart: dict[object, list[Tensor]] = {}
    for tensor in tensors:
        apart.setdefault(tensor.device_mesh if isinstance(tensor, DTensor) else None, []).append(tensor)
    found = [whole(torch.stack(torch._foreach_norm(group)).norm()) for group in apart.values()]
    return found[0] if len(found) == 1 else torch.stack(found).norm()


def clip_norm(parameters: Sequence[Tensor], most: float | None) -> Tensor:
    """Scale the gradients of `parameters` down to the norm `most` where it is above; returns it as it was, 0-dim.

    The scale is that of `nn.utils.clip_grad_norm_`, which takes no tensors of unlike meshes. Nothing waits for the
    device.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch.zeros(())
    total = norm(gradients)
    if most is not None:
        torch._foreach_mul_([local(each) for each in gradients], (most / (total + 1e-6)).clamp(max=1.0))
    return total


def one_by_one(groups: Iterable[dict[str, Any]]) -> None:
    """Let an optimizer move one tensor of `groups` at a time: those that lie unlike do not go into one operation."""
    for group in groups:
        group |= {key: False for key in ("fused", "foreach") if key in group}


def give_back(model: nn.Module) -> None:
    """Let go of gathered weights after a forward pass that no backward pass follows.

    The next one would take them as they were, and by then averages may have given way to the weights.
    """
    for module in divided(model):
        module.reshard()


def divided(model: nn.Module) -> Iterator[FSDPModule]:
    """What of `model` FSDP has shared out."""
    return (module for module in model.modules() if isinstance(module, FSDPModule))
