"""Rows as they are asked in each condition: the same questions, and images that tell less, or something else."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from PIL import Image, ImageFilter

from sightline.data.encode import Encoder
from sightline.data.encode_composed import ComposedEncoder
from sightline.data.images import load_image
from sightline.data.row import ImageRef, Row, Where
from sightline.evaluate.baselines import with_other_images

BLUR = 16  # the blur's sigma is the shorter side over this: of a photo, places and colours remain, objects do not
NOISES = 8  # images of noise for all rows together, where all images are made one size


@dataclass(frozen=True, slots=True)
class Condition:
    """Rows to be asked in place of the real ones, and what was done to them."""

    description: str
    rows: list[Row]


def shuffled(rows: Sequence[Row], seed: int) -> Condition | None:
    """Every image exchanged for another one; None where there are too few."""
    others = with_other_images(rows, seed)
    description = "the same model and questions, every image exchanged for another one"
    if without := sum(not row.images for row in rows):
        description += f" ({without} of the questions have no image and stay as they are)"
    return Condition(description, others) if others is not None else None


def blurred(rows: Sequence[Row]) -> Condition:
    """Every image blurred."""
    description = f"every image blurred (Gaussian, sigma 1/{BLUR} of its shorter side)"
    return Condition(description, _with(rows, lambda ref, where: _made(ref, "blurred", partial(_blur, ref, where))))


def noise(rows: Sequence[Row], encoder: Encoder, seed: int) -> Condition:
    """Every image exchanged for noise: `NOISES` images where all become one size, else one of each image's own."""
    side = _side(encoder)

    def instead(ref: ImageRef, where: Where) -> ImageRef:
        number = zlib.crc32(ref.key.encode()) % NOISES
        if side:
            return ImageRef(f"noise {side} {seed} {number}", read=partial(_noise, (side, side), (seed, number)))
        return _made(ref, "noise", partial(_own_noise, ref, where, (seed, number)))

    description = "every image exchanged for noise (each pixel's red, green and blue drawn evenly from 0 to 255)"
    return Condition(description, _with(rows, instead))


def no_image(rows: Sequence[Row]) -> Condition:
    """The questions alone: neither images nor their tokens."""
    bare = []
    for row in rows:
        turns = (replace(turn, parts=tuple(p for p in turn.parts if isinstance(p, str))) for turn in row.turns)
        bare.append(replace(row, turns=tuple(turns), images=()))
    return Condition("no image: the question alone, image tokens left out of the prompt", bare)


def mean_colour(rows: Sequence[Row], encoder: Encoder) -> Condition:
    """Every image exchanged for a plain one of the vision tower's mean colour, for models that must have an image."""
    side, colour = _side(encoder), _colour(encoder)

    def instead(ref: ImageRef, where: Where) -> ImageRef:
        if side:
            return ImageRef(f"plain {side} {colour}", read=partial(_plain, (side, side), colour))
        return _made(ref, "plain", partial(_own_plain, ref, where, colour))

    description = f"every image exchanged for a plain one of the tower's mean colour, red, green, blue {colour}"
    return Condition(description, _with(rows, instead))


def _with(rows: Sequence[Row], instead: Callable[[ImageRef, Where], ImageRef]) -> list[Row]:
    """`rows` with each distinct image replaced once."""
    made: dict[str, ImageRef] = {}
    for row in rows:
        for ref in row.images:
            if ref.key not in made:
                made[ref.key] = instead(ref, row.where)
    return [replace(row, images=tuple(made[ref.key] for ref in row.images)) for row in rows]


def _made(ref: ImageRef, how: str, read: Callable[[], bytes]) -> ImageRef:
    return ImageRef(f"{ref.key} {how}", read=read)


def _side(encoder: Encoder) -> int | None:
    """The side to which every image is resized; None where images keep sizes of their own."""
    return encoder.image_processor.size if isinstance(encoder, ComposedEncoder) else None


def _colour(encoder: Encoder) -> tuple[int, int, int]:
    if isinstance(encoder, ComposedEncoder):
        mean = encoder.image_processor.mean
    else:
        processor = getattr(getattr(encoder, "processor", None), "image_processor", None)
        mean = getattr(processor, "image_mean", None) or (0.5, 0.5, 0.5)
    red, green, blue = (round(255 * float(channel)) for channel in mean)
    return red, green, blue


# --- pixels, as the bytes of an image file -----------------------------------------------------------------------


def _blur(ref: ImageRef, where: Where) -> bytes:
    image = load_image(ref, where)
    return _bytes(image.filter(ImageFilter.GaussianBlur(min(image.size) / BLUR)))


def _noise(size: tuple[int, int], seed: tuple[int, int]) -> bytes:
    width, height = size
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return _bytes(Image.fromarray(pixels))


def _own_noise(ref: ImageRef, where: Where, seed: tuple[int, int]) -> bytes:
    return _noise(load_image(ref, where).size, seed)


def _plain(size: tuple[int, int], colour: tuple[int, int, int]) -> bytes:
    return _bytes(Image.new("RGB", size, colour))


def _own_plain(ref: ImageRef, where: Where, colour: tuple[int, int, int]) -> bytes:
    return _plain(load_image(ref, where).size, colour)


def _bytes(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="BMP")  # nothing is compressed: it is read again at once
    return buffer.getvalue()
