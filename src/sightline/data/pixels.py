"""Image to tensor: resize by PIL, then the mean and standard deviation the vision tower was trained with.

The arithmetic is that of transformers' PIL image processors (CLIP, SigLIP): 8-bit resize, divide by 255, normalise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

Resize = Literal["squash", "crop", "pad"]
RESAMPLE = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True, slots=True)
class ImageProcessorFacts:
    """What a vision tower expects of an image.

    Attributes:
        size: height and width of the square input, in pixels.
        mean, std: per channel (RGB), of pixels scaled to 0..1.
        resize: "squash" changes the aspect ratio; "crop" scales the shorter side and cuts the centre; "pad" first
            extends the image to a square of the mean colour (LLaVA-1.5).
        resample: the interpolation filter.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: Resize = "squash"
    resample: Literal["bicubic", "bilinear"] = "bicubic"


def resized(image: Image.Image, facts: ImageProcessorFacts) -> Tensor:
    """`image` (RGB) as (3, size, size) uint8."""
    size, how = facts.size, RESAMPLE[facts.resample]
    if facts.resize == "pad":
        image = _padded(image, facts.mean)
    if facts.resize == "crop":
        image = _centre(image, size, how)
    elif image.size != (size, size):
        image = image.resize((size, size), how)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def normalised(pixels: Tensor, facts: ImageProcessorFacts) -> Tensor:
    """(N, 3, H, W) uint8 as float32 with the tower's mean and standard deviation."""
    mean = torch.tensor(facts.mean).view(1, 3, 1, 1)
    std = torch.tensor(facts.std).view(1, 3, 1, 1)
    return pixels.float().div_(255).sub_(mean).div_(std)


def _padded(image: Image.Image, mean: tuple[float, float, float]) -> Image.Image:
    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    red, green, blue = (int(channel * 255) for channel in mean)
    square = Image.new("RGB", (side, side), (red, green, blue))
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


def _centre(image: Image.Image, size: int, how: Image.Resampling) -> Image.Image:
    width, height = image.size
    short, long = min(width, height), max(width, height)
    other = int(size * long / short)
    new = (size, other) if width <= height else (other, size)
    if new != image.size:
        image = image.resize(new, how)
    left, top = (new[0] - size) // 2, (new[1] - size) // 2
    return image.crop((left, top, left + size, top + size))
