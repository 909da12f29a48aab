"""Between pixels from 0 to 1 and what a tower is given: the mean and the standard deviation of an image processor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sightline.errors import UserError

EXACT = 1e-3  # of a level from 0 to 255: what an image processor's own rounding may leave


@dataclass(frozen=True, slots=True)
class Scale:
    """(N, 3, H, W) pixels from 0 to 1 and back. Mean and standard deviation are per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def values(self, pixels: Tensor) -> Tensor:
        """What the tower is given for `pixels`: the same arithmetic, in the same order, as `pixels.normalised`."""
        return pixels.sub(_channels(self.mean, pixels)).div(_channels(self.std, pixels))

    def pixels(self, values: Tensor) -> Tensor:
        """The 8-bit picture behind a tower's `values`, as levels k / 255. Raises UserError where there is none."""
        levels = values.float().mul(_channels(self.std, values)).add(_channels(self.mean, values)) * 255
        exact = levels.round()
        if values.numel() and (float((levels - exact).abs().max()) > EXACT or exact.min() < 0 or exact.max() > 255):
            raise UserError(
                "what this model is given of an image is not the image with mean and standard deviation taken out",
                fix="attacks on pixels need an image processor that does no more than resize, crop and normalise",
            )
        return exact / 255

    def wide(self, deltas: Tensor) -> Tensor:
        """A difference of pixels as a difference of values."""
        return deltas.div(_channels(self.std, deltas))


def scale_of(encoder: Any) -> Scale:
    """The scale of an encoder's image processor, composed or adopted. Raises UserError where it tells none."""
    facts = getattr(getattr(encoder, "prompts", encoder), "image_processor", None)
    if facts is not None:
        return Scale(tuple(facts.mean), tuple(facts.std))
    processor = getattr(getattr(encoder, "processor", None), "image_processor", None)
    mean, std = getattr(processor, "image_mean", None), getattr(processor, "image_std", None)
    if mean is None or std is None or len(mean) != 3:
        raise UserError("the image processor tells no mean and standard deviation", where="model.adopt")
    if getattr(processor, "do_normalize", True) is False:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return Scale(tuple(map(float, mean)), tuple(map(float, std)))


def _channels(numbers: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float32, device=like.device).view(-1, 1, 1)
