"""Factor x factor neighbouring patches become one token, then an MLP (InternVL 1.5, Chen et al. 2024, section 3.1)."""

from __future__ import annotations

import math

from torch import Tensor, nn

from sightline.errors import UserError
from sightline.models.connectors import mlp
from sightline.recipe.schema import ConnectorSpec


def tokens(count: int, spec: ConnectorSpec) -> int:
    """A square grid of `count` patches over factor squared. Raises UserError where the grid cannot be cut so."""
    side = math.isqrt(count)
    if side * side != count:
        raise UserError(
            f"pixel-shuffle needs a square grid of patches, but the vision tower gives {count} tokens",
            where="model.compose.connector.kind",
            fix="set model.compose.vision.tokens to patch, or model.compose.connector.kind to mlp",
        )
    if side % spec.factor:
        fits = [str(factor) for factor in range(1, side + 1) if side % factor == 0]
        raise UserError(
            f"pixel-shuffle by {spec.factor} does not divide the vision tower's {side} x {side} patches",
            where="model.compose.connector.factor",
            fix=f"set model.compose.connector.factor to one of {', '.join(fits)}",
        )
    return (side // spec.factor) ** 2


class PixelShuffle(nn.Module):
    """Moves `factor` x `factor` squares of a patch grid into the width: (N, P, D) -> (N, P / factor^2, factor^2 D)."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, features: Tensor) -> Tensor:
        images, patches, width = features.shape
        cells = math.isqrt(patches) // self.factor
        grid = features.view(images, cells, self.factor, cells, self.factor, width)
        return grid.transpose(2, 3).reshape(images, cells * cells, self.factor**2 * width)

    def extra_repr(self) -> str:
        return f"factor={self.factor}"


def build(width_in: int, width_out: int, spec: ConnectorSpec) -> nn.Module:
    """(N, P, width_in) -> (N, P / factor^2, width_out)."""
    return nn.Sequential(PixelShuffle(spec.factor), *mlp.build(width_in * spec.factor**2, width_out, spec).children())
