"""The learned temperature of a contrastive loss.

It is a parameter of the model, saved, decayed and counted with the `connector` tower; a loss only receives its value.
That is why it is here and not among the losses.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sightline.errors import UserError


class Temperature(nn.Module):
    """A scale (one over the temperature) that is learned as its logarithm and kept between two bounds.

    CLIP starts at 1/0.07 and never exceeds 100 (arXiv 2103.00020, section 2.5); SigLIP starts at 10.

    A clamp inside the graph has no gradient beyond its bounds, so a parameter that stepped over one would stay there.
    Here the value is that of the clamped logarithm, the gradient is the one at that value (linear, so it adds up over
    micro-batches and ranks), and the parameter itself is put back within its bounds at its next use in training.

    Args:
        scale: where it starts.
        lowest, highest: bounds of the scale; None for no bound.
    """

    def __init__(self, scale: float = 1 / 0.07, lowest: float | None = 1.0, highest: float | None = 100.0) -> None:
        super().__init__()
        if not (lowest or 0.0) <= scale <= (highest or math.inf) or scale <= 0:
            raise UserError(
                f"a temperature's scale cannot start at {scale} between {lowest} and {highest}",
                where="temperature",
                fix="give a positive scale within its bounds",
            )
        self.bounds = (
            -math.inf if lowest is None else math.log(lowest),
            math.inf if highest is None else math.log(highest),
        )
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))

    def forward(self) -> Float[Tensor, ""]:
        """The scale, 0-dim fp32 (the parameter's own type where that is wider)."""
        if self.training:
            self.project()
        return _BoundedExp.apply(self.log_scale, *self.bounds)

    @torch.no_grad()
    def project(self) -> None:
        """Put the parameter back within its bounds."""
        self.log_scale.clamp_(*self.bounds)


class _BoundedExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, log_scale: Tensor, low: float, high: float) -> Tensor:
        scale = log_scale.to(torch.promote_types(log_scale.dtype, torch.float32)).clamp(low, high).exp()
        ctx.save_for_backward(scale)
        ctx.dtype = log_scale.dtype
        return scale

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (scale,) = ctx.saved_tensors
        return (grad * scale).to(ctx.dtype), None, None
