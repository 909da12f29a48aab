"""Clipping a step's gradients: all together, each tower by itself, or each unit against its own weights.

Nothing here waits for the device: norms stay where the gradients are, and on an accelerator torch takes those of a
tower in one operation on lists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sightline.recipe.schema import AdaptiveClip, Clip
from sightline.train.groups import parameters_by_tower
from sightline.train.parallel.sharded import clip_norm


@dataclass(frozen=True, slots=True)
class Norms:
    """Gradient norms before clipping, 0-dim: of all, and of each tower where these had to be taken."""

    total: Tensor
    towers: Mapping[str, Tensor] = field(default_factory=dict)


def clip_gradients(optimizer: torch.optim.Optimizer, clip: Clip | None) -> Norms:
    """Clip the gradients of what `optimizer` moves.

    A number bounds the norm of all gradients together. {tower: number} bounds each tower's own, so that one tower's
    spike does not shrink the others' step. {adaptive: lambda} bounds each unit's (see `clip_units`).
    """
    if clip is None or isinstance(clip, int | float):
        return Norms(clip_norm([p for group in optimizer.param_groups for p in group["params"]], clip))
    norms, bounds = {}, {} if isinstance(clip, AdaptiveClip) else {str(tower): most for tower, most in clip.items()}
    for tower, parameters in parameters_by_tower(optimizer).items():
        norms[tower] = clip_norm(parameters, bounds.get(tower))
        if isinstance(clip, AdaptiveClip):
            clip_units(parameters, clip.adaptive, clip.floor)
    return Norms(torch.stack(list(norms.values())).norm(), norms)


@torch.no_grad()
def clip_units(parameters: Sequence[Tensor], most: float, floor: float) -> None:
    """Scale each unit's gradient down to `most` times the norm of its weights, or of `floor` where they are smaller.

    Brock et al. 2021 (arXiv 2102.06171), equation 3 and its text. A unit is a row of a matrix (the weights into one
    output), a filter of a convolution, a word of an embedding; a vector (bias, gain) is one unit. The paper leaves the
    last linear layer of its classifier out; here nothing is.
    """
    learning = [p for p in parameters if p.grad is not None]
    if not learning:
        return
    gradients = [p.grad for p in learning if p.grad is not None]
    bounds = [_unit_norms(p.detach()) for p in learning]
    torch._foreach_clamp_min_(bounds, floor)
    torch._foreach_mul_(bounds, most)
    norms = [_unit_norms(gradient) for gradient in gradients]
    torch._foreach_maximum_(norms, bounds)  # so that what is within its bound is multiplied by exactly 1
    torch._foreach_div_(bounds, norms)
    for gradient, scale in zip(gradients, bounds, strict=True):
        gradient.mul_(scale)


def _unit_norms(values: Tensor) -> Tensor:
    """The norm of each unit, in at least fp32, of a shape that spreads over `values`."""
    dtype = torch.promote_types(values.dtype, torch.float32)
    within = tuple(range(1, values.ndim)) if values.ndim > 1 else None
    return torch.linalg.vector_norm(values, dim=within, keepdim=values.ndim > 1, dtype=dtype)
