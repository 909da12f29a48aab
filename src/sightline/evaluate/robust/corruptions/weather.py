"""Weather: snow, frost, fog, brightness. Lengths are pixels of a picture of 224."""

from __future__ import annotations

import numpy as np

from sightline.evaluate.robust.corruptions.blur import scale
from sightline.evaluate.robust.corruptions.filters import Array, along, plasma, sample

# Mean and spread of the flakes' noise, their size, from where on it shows, how far they fall (radius, sigma), what is
# left of the picture's own colours.
SNOW = (
    (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
    (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
    (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
    (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
    (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
)
FROST = ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))  # share of the picture, of the ice
FOG = ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))  # thickness, how smooth
BRIGHTNESS = (0.1, 0.2, 0.3, 0.4, 0.5)  # added to the value (HSV)
GREY = np.array([0.299, 0.587, 0.114])


def snow(image: Array, severity: int, random: np.random.Generator) -> Array:
    """Flakes that fall, in a picture that has lost some of its colour."""
    mean, spread, flake, shown, radius, sigma, kept = SNOW[severity - 1]
    height, width = image.shape[:2]
    cell = max(1.0, flake * scale(image))
    grid = mean + spread * random.standard_normal((int(height / cell) + 2, int(width / cell) + 2))
    y, x = np.mgrid[0:height, 0:width] / cell
    layer = sample(grid, y, x)
    layer = np.where(layer < shown, 0.0, layer).clip(0, 1)
    fallen = along(layer, radius * scale(image), sigma * scale(image), random.uniform(-135, -45))[..., None]
    grey = (image @ GREY)[..., None]
    pale = kept * image + (1 - kept) * np.maximum(image, grey * 1.5 + 0.5)
    return pale + fallen + np.rot90(fallen, 2)


def frost(image: Array, severity: int, random: np.random.Generator) -> Array:
    """Ice on the lens. The paper lays photographs of it over the picture; here it is drawn: bright veins of clouds."""
    own, ice = FROST[severity - 1]
    height, width = image.shape[:2]
    veins = 1 - np.abs(plasma(height, width, 1.6, random) - plasma(height, width, 1.6, random)) * 3
    veil = plasma(height, width, 2.0, random)
    shade = (0.25 + 0.75 * veins.clip(0, 1) * veil)[..., None]
    return own * image + ice * shade * np.array([0.85, 0.95, 1.0])


def fog(image: Array, severity: int, random: np.random.Generator) -> Array:
    """White clouds before the picture (smooth noise in octaves, where the paper has a diamond-square fractal)."""
    thick, decay = FOG[severity - 1]
    height, width = image.shape[:2]
    most = image.max()
    return (image + thick * plasma(height, width, decay, random)[..., None]) * most / (most + thick)


def brightness(image: Array, severity: int, random: np.random.Generator) -> Array:
    """More light: the value of HSV rises, hue and saturation stay."""
    value = image.max(-1, keepdims=True)
    raised = (value + BRIGHTNESS[severity - 1]).clip(0, 1)
    return np.where(value > 0, image * raised / np.maximum(value, 1e-12), raised)
