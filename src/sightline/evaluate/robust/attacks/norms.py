"""The two bounds of a difference of pixels, linf and l2: its size, the steepest step, projection, random differences.

Shapes: N pictures of (3, H, W). A difference is bounded picture by picture.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from sightline.evaluate.robust.attacks.target import Target

Norm = Literal["linf", "l2"]
TINY = 1e-10  # keeps a norm of zero from dividing


def size(delta: Tensor, norm: Norm) -> Tensor:
    """(N,) float64: the norm of each picture's difference."""
    flat = delta.double().flatten(1)
    return flat.abs().amax(1) if norm == "linf" else flat.square().sum(1).sqrt()


def tolerance(delta: Tensor, norm: Norm) -> float:
    """What fp32 rounding of pixels from 0 to 1 may add to a norm: half a unit in the last place, twice, each pixel."""
    unit = 2.0**-23
    return unit if norm == "linf" else unit * math.sqrt(delta[0].numel())


def steepest(gradient: Tensor, norm: Norm) -> Tensor:
    """The difference of norm 1 along which the loss rises fastest; zero where there is no gradient."""
    if norm == "linf":
        return gradient.sign()
    # Of a confident model gradients are tiny; scaled first, their squares do not vanish.
    scaled = gradient / across(gradient.flatten(1).abs().amax(1).clamp(min=torch.finfo(gradient.dtype).tiny), gradient)
    return scaled / across(scaled.flatten(1).norm(dim=1).clamp(min=TINY), gradient)


def projected(delta: Tensor, epsilon: float, norm: Norm) -> Tensor:
    """The nearest difference within the bound."""
    if norm == "linf":
        return delta.clamp(-epsilon, epsilon)
    length = delta.flatten(1).norm(dim=1)
    return delta * across((epsilon / length.clamp(min=TINY)).clamp(max=1.0), delta)


def within(pixels: Tensor, clean: Tensor, epsilon: float, norm: Norm) -> Tensor:
    """`pixels` brought back within the bound around `clean`, and into 0 to 1."""
    return (clean + projected(pixels - clean, epsilon, norm)).clamp(0, 1)


def start(target: Target, epsilon: float, norm: Norm, restart: int) -> Tensor:
    """A random point within the bound: uniform in the cube (linf), a uniform length in a random direction (l2)."""
    shape = target.pixels.shape[1:]

    def draw(numbers: torch.Generator) -> Tensor:
        if norm == "linf":
            return (torch.rand(shape, generator=numbers) * 2 - 1) * epsilon
        direction = torch.randn(shape, generator=numbers)
        return direction / direction.norm() * (torch.rand((), generator=numbers) * epsilon)

    return (target.pixels + target.drawn(draw, f"start {restart}")).clamp(0, 1)


def noise(target: Target, epsilon: float, norm: Norm) -> Tensor:
    """Random noise as large as the bound allows: every pixel up or down by it (linf), or a random direction (l2)."""
    shape = target.pixels.shape[1:]

    def draw(numbers: torch.Generator) -> Tensor:
        if norm == "linf":
            return (torch.randint(0, 2, shape, generator=numbers) * 2.0 - 1) * epsilon
        direction = torch.randn(shape, generator=numbers)
        return direction / direction.norm() * epsilon

    return (target.pixels + target.drawn(draw, "noise")).clamp(0, 1)


def across(numbers: Tensor, like: Tensor) -> Tensor:
    """One number a picture, to be multiplied with the pictures of `like`."""
    return numbers.view(-1, *[1] * (like.ndim - 1))
