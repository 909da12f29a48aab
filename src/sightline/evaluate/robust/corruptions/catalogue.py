"""The corruptions by name and family, and a picture corrupted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import get_args

import numpy as np
from PIL import Image

from sightline.evaluate.robust.corruptions import blur, digital, noise, weather
from sightline.evaluate.robust.corruptions.filters import Array
from sightline.recipe.robust import Corruption

Corrupt = Callable[[Array, int, np.random.Generator], Array]
FAMILIES: dict[str, dict[Corruption, Corrupt]] = {
    "noise": {
        "gaussian-noise": noise.gaussian_noise,
        "shot-noise": noise.shot_noise,
        "impulse-noise": noise.impulse_noise,
        "speckle-noise": noise.speckle_noise,
    },
    "blur": {
        "defocus-blur": blur.defocus_blur,
        "gaussian-blur": blur.gaussian_blur,
        "glass-blur": blur.glass_blur,
        "motion-blur": blur.motion_blur,
        "zoom-blur": blur.zoom_blur,
    },
    "weather": {
        "snow": weather.snow,
        "frost": weather.frost,
        "fog": weather.fog,
        "brightness": weather.brightness,
    },
    "digital": {
        "contrast": digital.contrast,
        "saturate": digital.saturate,
        "elastic": digital.elastic,
        "pixelate": digital.pixelate,
        "jpeg": digital.jpeg,
    },
}
ALL: tuple[Corruption, ...] = get_args(Corruption)


def family_of(name: Corruption) -> str:
    """noise, blur, weather or digital."""
    return next(family for family, members in FAMILIES.items() if name in members)


def corrupted(
    image: Image.Image, name: Corruption, severity: int, seed: int = 0, side: int | None = None
) -> Image.Image:
    """`image` (RGB) corrupted at `severity`, 1 to 5: the same for the same seed and picture.

    `side`: a picture whose shorter side is longer is scaled down to it first (the paper's are 224).
    """
    if side is not None and min(image.size) > side:
        share = side / min(image.size)
        image = image.resize((round(image.width * share), round(image.height * share)), Image.Resampling.BICUBIC)
    levels = np.asarray(image.convert("RGB"))
    told = hashlib.blake2b(f"{seed} {name} {levels.shape}".encode() + levels.tobytes(), digest_size=8).digest()
    random = np.random.default_rng(int.from_bytes(told, "little"))
    made = FAMILIES[family_of(name)][name](levels / 255, severity, random)
    return Image.fromarray((made.clip(0, 1) * 255).round().astype(np.uint8))
