"""What several corruptions are made of: Gaussian blur, blur along a line, sampling between pixels, smooth noise.

Pictures are (H, W, C) or (H, W) float64 arrays from 0 to 1.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def gaussian(image: Array, sigma: float) -> Array:
    """Blurred by a Gaussian of `sigma` pixels; the picture is mirrored at its borders."""
    if sigma <= 0:
        return image
    rows, columns = _blur(image.shape[0], sigma), _blur(image.shape[1], sigma)
    return np.einsum("yi,ij...,xj->yx...", rows, image, columns, optimize=True)


def _blur(length: int, sigma: float) -> Array:
    """(length, length): the matrix that blurs a mirrored line."""
    reach = max(1, math.ceil(3 * sigma))
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    matrix = np.zeros((length, length))
    places = _mirrored(np.arange(length)[:, None] + offsets, length)
    np.add.at(matrix, (np.arange(length)[:, None].repeat(len(offsets), 1), places), weights / weights.sum())
    return matrix


def along(image: Array, radius: float, sigma: float, degrees: float) -> Array:
    """Dragged along a line: samples up to `radius` pixels away on one side, weighted by a Gaussian of `sigma`."""
    steps = np.arange(max(1, math.ceil(radius)) + 1)
    weights = np.exp(-0.5 * (steps / max(sigma, 1e-6)) ** 2)
    angle, reach = math.radians(degrees), len(steps)
    padded = np.pad(image, [(reach, reach), (reach, reach)] + [(0, 0)] * (image.ndim - 2), mode="symmetric")
    total = np.zeros_like(image)
    for step, weight in zip(steps, weights / weights.sum(), strict=True):
        down, right = step * math.sin(angle), step * math.cos(angle)
        top, left = math.floor(down), math.floor(right)
        for y, part_y in ((top, 1 - down + top), (top + 1, down - top)):
            for x, part_x in ((left, 1 - right + left), (left + 1, right - left)):
                if part := weight * part_y * part_x:
                    total += part * _window(padded, image, reach + y, reach + x)
    return total


def _window(padded: Array, image: Array, top: int, left: int) -> Array:
    """A part of `padded` of the size of `image`."""
    return padded[top : top + image.shape[0], left : left + image.shape[1]]


def sample(image: Array, y: Array, x: Array) -> Array:
    """The picture at places between its pixels, by the four around each; mirrored outside."""
    top, left = np.floor(y), np.floor(x)
    down, right = y - top, x - left
    rows = [_mirrored(top.astype(int) + step, image.shape[0]) for step in (0, 1)]
    columns = [_mirrored(left.astype(int) + step, image.shape[1]) for step in (0, 1)]
    if image.ndim == 3:
        down, right = down[..., None], right[..., None]
    above = image[rows[0], columns[0]] * (1 - right) + image[rows[0], columns[1]] * right
    below = image[rows[1], columns[0]] * (1 - right) + image[rows[1], columns[1]] * right
    return above * (1 - down) + below * down


def zoomed(image: Array, factor: float) -> Array:
    """The middle of the picture, `factor` times as large, in the same frame."""
    y, x = _grid(image)
    middle_y, middle_x = (image.shape[0] - 1) / 2, (image.shape[1] - 1) / 2
    return sample(image, middle_y + (y - middle_y) / factor, middle_x + (x - middle_x) / factor)


def plasma(height: int, width: int, decay: float, random: np.random.Generator) -> Array:
    """(height, width) clouds from 0 to 1: noise on grids that double in fineness, each `decay` times as weak."""
    total, strength, cells = np.zeros((height, width)), 1.0, 2
    while cells <= max(height, width):
        grid = random.uniform(-1, 1, (cells + 1, cells + 1))
        y = np.linspace(0, cells, height)[:, None].repeat(width, 1)
        x = np.linspace(0, cells, width)[None].repeat(height, 0)
        total += strength * sample(grid, y, x)
        strength, cells = strength / decay, cells * 2
    total -= total.min()
    return total / max(total.max(), 1e-12)


def _grid(image: Array) -> tuple[Array, Array]:
    y, x = np.mgrid[0 : image.shape[0], 0 : image.shape[1]].astype(float)
    return y, x


def _mirrored(places: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Places outside of 0 to length - 1 folded back, as often as it takes."""
    period = 2 * length
    inside = places % period
    return np.where(inside < length, inside, period - 1 - inside)
