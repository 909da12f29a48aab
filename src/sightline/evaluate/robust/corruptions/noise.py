"""Noise: Gaussian, shot (Poisson), impulse (salt and pepper), speckle. Per pixel and channel, whatever the size."""

from __future__ import annotations

import numpy as np

from sightline.evaluate.robust.corruptions.filters import Array

GAUSSIAN = (0.08, 0.12, 0.18, 0.26, 0.38)  # standard deviation
SHOT = (60, 25, 12, 5, 3)  # photons of a white pixel
IMPULSE = (0.03, 0.06, 0.09, 0.17, 0.27)  # share of values that become 0 or 1
SPECKLE = (0.15, 0.2, 0.35, 0.45, 0.6)  # standard deviation, as a share of the pixel


def gaussian_noise(image: Array, severity: int, random: np.random.Generator) -> Array:
    """Electronic noise of a dark picture."""
    return image + GAUSSIAN[severity - 1] * random.standard_normal(image.shape)


def shot_noise(image: Array, severity: int, random: np.random.Generator) -> Array:
    """Light comes in photons."""
    return random.poisson(image * SHOT[severity - 1]) / SHOT[severity - 1]


def impulse_noise(image: Array, severity: int, random: np.random.Generator) -> Array:
    """Values that are lost: black or white, half of them each."""
    hit, white = random.random(image.shape) < IMPULSE[severity - 1], random.random(image.shape) < 0.5
    return np.where(hit, white.astype(float), image)


def speckle_noise(image: Array, severity: int, random: np.random.Generator) -> Array:
    """Noise that grows with the light."""
    return image + image * SPECKLE[severity - 1] * random.standard_normal(image.shape)
