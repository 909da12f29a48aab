"""Pictures handed to a model in place of a row's own: as files of 8 bits a channel, or as floats past the file."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from sightline.data.batch import Batch
from sightline.data.row import ImageRef, Row


class Substituting:
    """`encoder`, but the images whose keys are in `pixels` are replaced by those, unrounded, as `put` knows how.

    `pixels`: image key -> (3, H, W) from 0 to 1, of the size that the encoder makes.
    """

    def __init__(self, encoder: Any, put: Callable[[Batch, Mapping[str, Tensor]], Batch]) -> None:
        self._encoder, self._put = encoder, put
        self.pixels: Mapping[str, Tensor] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def collate(self, sequences: Any, **options: Any) -> Batch:
        """See `Encoder.collate`."""
        return self._put(self._encoder.collate(sequences, **options), self.pixels)


def picture(pixels: Tensor) -> Image.Image:
    """(3, H, W) from 0 to 1 as a picture of 8 bits a channel; each pixel goes to the nearest level."""
    levels = pixels.detach().float().cpu().mul(255).round().clamp(0, 255)
    return Image.fromarray(levels.permute(1, 2, 0).numpy().astype(np.uint8))


def png(image: Image.Image) -> bytes:
    """The file of a picture, without loss."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def with_pictures(rows: Sequence[Row], owner: Sequence[int], images: Sequence[Image.Image], name: str) -> list[Row]:
    """`rows` with other pictures: the n-th of `images` is of row `owner[n]`, those of a row in their order.

    `name` makes the images' keys, which must be new: what a model made of an image is kept by its key.
    """
    made: list[list[ImageRef]] = [[] for _ in rows]
    for number, (row, image) in enumerate(zip(owner, images, strict=True)):
        made[row].append(ImageRef(f"{name}/{number}", data=png(image)))
    return [replace(row, images=tuple(refs) if refs else row.images) for row, refs in zip(rows, made, strict=True)]
