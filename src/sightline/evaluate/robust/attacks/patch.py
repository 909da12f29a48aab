"""A patch: a square of the picture takes any values, the rest stays as it is.

After Brown et al. 2017 (arXiv 1712.09665), whose patch is one for all pictures; here each picture has its own, at a
place drawn by its seed, which is the stronger attack.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sightline.evaluate.robust.attacks.target import Target, worst

REACH = 2.0  # the steps together cross the range of a pixel twice


def places(target: Target, area: float) -> Tensor:
    """(N, 1, H, W) bool: a square of `area` of each picture, at least one pixel, wholly inside it."""
    height, width = target.pixels.shape[-2:]
    side = max(1, min(round(math.sqrt(area * height * width)), height, width))

    def draw(numbers: torch.Generator) -> Tensor:
        top = int(torch.randint(0, height - side + 1, (), generator=numbers))
        left = int(torch.randint(0, width - side + 1, (), generator=numbers))
        mask = torch.zeros(1, height, width, dtype=torch.bool)
        mask[:, top : top + side, left : left + side] = True
        return mask

    return target.drawn(draw, "place")


def noise(target: Target, where: Tensor, restart: int = 0) -> Tensor:
    """The pictures with uniform random pixels in the places `where`."""
    shape = target.pixels.shape[1:]
    random = target.drawn(lambda numbers: torch.rand(shape, generator=numbers), f"patch {restart}")
    return torch.where(where, random, target.pixels)


def patch(
    target: Target, area: float, *, steps: int = 20, step_size: float | None = None, restarts: int = 1
) -> tuple[Tensor, Tensor]:
    """(N, 3, H, W) attacked pixels from 0 to 1, and (N, 1, H, W) where they may differ."""
    where, size = places(target, area), step_size or REACH / steps
    tries = []
    for restart in range(restarts):
        pixels = noise(target, where, restart)
        for _ in range(steps):
            _, gradient = target.raised(pixels)
            pixels = torch.where(where, (pixels + size * gradient.sign()).clamp(0, 1), target.pixels)
        tries.append(pixels)
    return worst(target, tries), where
