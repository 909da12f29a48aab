"""Blur: out of focus, Gaussian, frosted glass, motion, zoom. Lengths are pixels of a picture of 224."""

from __future__ import annotations

import math

import numpy as np

from sightline.evaluate.robust.corruptions.filters import Array, along, gaussian, sample, zoomed

SIDE = 224
DEFOCUS = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))  # radius of the disk, Gaussian that softens it
GAUSSIAN = (1, 2, 3, 4, 6)  # sigma
GLASS = ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))  # sigma, how far pixels stray, how often
MOTION = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))  # radius, sigma
ZOOM = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))  # from 1 up to this, by steps
FINE = 4  # samples of a pixel's side, when the disk is drawn


def scale(image: Array) -> float:
    """Pixels of this picture that stand for one of a picture of 224."""
    return min(image.shape[:2]) / SIDE


def defocus_blur(image: Array, severity: int, random: np.random.Generator) -> Array:
    """Each point becomes a disk."""
    radius, soft = DEFOCUS[severity - 1]
    return gaussian(_disk(image, radius * scale(image)), soft * scale(image))


def _disk(image: Array, radius: float) -> Array:
    reach = math.ceil(radius)
    edge = (np.arange(FINE) + 0.5) / FINE - 0.5
    fine = np.arange(-reach, reach + 1)[:, None] + edge  # (2 reach + 1, FINE)
    inside = fine.reshape(-1, 1) ** 2 + fine.reshape(1, -1) ** 2 <= radius**2
    kernel = inside.reshape(2 * reach + 1, FINE, 2 * reach + 1, FINE).mean((1, 3))
    if not kernel.any():
        return image
    kernel /= kernel.sum()
    padded = np.pad(image, [(reach, reach), (reach, reach)] + [(0, 0)] * (image.ndim - 2), mode="symmetric")
    height, width = image.shape[:2]
    total = np.zeros_like(image)
    for y, x in zip(*kernel.nonzero(), strict=True):
        total += kernel[y, x] * padded[y : y + height, x : x + width]
    return total


def gaussian_blur(image: Array, severity: int, random: np.random.Generator) -> Array:
    """Soft all over."""
    return gaussian(image, GAUSSIAN[severity - 1] * scale(image))


def glass_blur(image: Array, severity: int, random: np.random.Generator) -> Array:
    """Each pixel takes the place of a near one (the paper exchanges neighbours one after the other)."""
    sigma, stray, times = GLASS[severity - 1]
    reach = max(1, round(stray * scale(image)))
    seen = gaussian(image, sigma * scale(image))
    y, x = np.mgrid[0 : image.shape[0], 0 : image.shape[1]].astype(float)
    for _ in range(times):
        seen = sample(
            seen, y + random.integers(-reach, reach + 1, y.shape), x + random.integers(-reach, reach + 1, x.shape)
        )
    return gaussian(seen, sigma * scale(image))


def motion_blur(image: Array, severity: int, random: np.random.Generator) -> Array:
    """The camera moves, at most 45 degrees from the horizontal."""
    radius, sigma = MOTION[severity - 1]
    return along(image, radius * scale(image), sigma * scale(image), random.uniform(-45, 45))


def zoom_blur(image: Array, severity: int, random: np.random.Generator) -> Array:
    """The camera moves towards what it sees."""
    most, step = ZOOM[severity - 1]
    layers = [zoomed(image, factor) for factor in np.arange(1, most, step)]
    return (image + np.sum(layers, axis=0)) / (len(layers) + 1)
