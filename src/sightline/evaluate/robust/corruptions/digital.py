"""Digital: contrast, saturation, elastic, pixelate, JPEG."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from sightline.evaluate.robust.corruptions.blur import scale
from sightline.evaluate.robust.corruptions.filters import Array, gaussian, sample

CONTRAST = (0.4, 0.3, 0.2, 0.1, 0.05)  # what is left of it
SATURATE = ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2))  # the saturation (HSV) times this, plus that
# Strength and smoothness of the displacement, jitter of the corners; shares of the shorter side (the paper's 244).
ELASTIC = ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02))
PIXELATE = (0.6, 0.5, 0.4, 0.3, 0.25)  # of the resolution
JPEG = (25, 18, 15, 10, 7)  # quality


def contrast(image: Array, severity: int, random: np.random.Generator) -> Array:
    """Nearer to each channel's mean."""
    means = image.mean((0, 1), keepdims=True)
    return (image - means) * CONTRAST[severity - 1] + means


def saturate(image: Array, severity: int, random: np.random.Generator) -> Array:
    """Paler, paler still, then far too colourful: the saturation of HSV changes, hue and value stay."""
    times, more = SATURATE[severity - 1]
    value, low = image.max(-1, keepdims=True), image.min(-1, keepdims=True)
    own = (value - low) / np.maximum(value, 1e-12)
    new = (own * times + more).clip(0, 1)
    # Without a saturation there is no hue: HSV takes red.
    reds = value * (1 - new * np.array([0.0, 1.0, 1.0]))
    return np.where(own > 1e-9, value - (value - image) * new / np.maximum(own, 1e-9), reds)


def elastic(image: Array, severity: int, random: np.random.Generator) -> Array:
    """Stretched and bent: an affine map by three corners, then a smooth random displacement."""
    height, width = image.shape[:2]
    side = min(height, width)
    strength, smooth, jitter = (share * side for share in ELASTIC[severity - 1])
    y, x = np.mgrid[0:height, 0:width].astype(float)
    middle, third = np.array([height // 2, width // 2], float), side // 3
    corners = np.array([middle + third, middle + np.array([third, -third]), middle - third])
    moved = corners + random.uniform(-jitter, jitter, corners.shape)
    back = np.linalg.solve(np.column_stack([moved, np.ones(3)]), corners)  # where each place of the result comes from
    source = np.stack([y, x, np.ones_like(y)], -1) @ back
    # Blurred over more pixels noise is weaker in proportion: so many times as strong, it bends a larger picture as far.
    strength *= scale(image)
    bend = [strength * gaussian(random.uniform(-1, 1, (height, width)), smooth) for _ in range(2)]
    return sample(image, source[..., 0] + bend[0], source[..., 1] + bend[1])


def pixelate(image: Array, severity: int, random: np.random.Generator) -> Array:
    """Fewer, larger pixels."""
    picture, share = _eight_bit(image), PIXELATE[severity - 1]
    small = (max(1, int(picture.width * share)), max(1, int(picture.height * share)))
    coarse = picture.resize(small, Image.Resampling.BOX).resize(picture.size, Image.Resampling.BOX)
    return np.asarray(coarse) / 255


def jpeg(image: Array, severity: int, random: np.random.Generator) -> Array:
    """Compressed too much."""
    buffer = io.BytesIO()
    _eight_bit(image).save(buffer, "JPEG", quality=JPEG[severity - 1])
    with Image.open(buffer) as compressed:
        return np.asarray(compressed.convert("RGB")) / 255


def _eight_bit(image: Array) -> Image.Image:
    return Image.fromarray((image.clip(0, 1) * 255).round().astype(np.uint8))
