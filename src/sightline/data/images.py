"""Decoding: any picture a user may have, as 8-bit RGB the right way up, or one clear error.

EXIF orientation is applied, CMYK, palette and grey images are converted, 16-bit ones scaled to 8 bits, transparency is
laid on white. Refused by name: animations and multi-page files (which frame is meant?), floating-point images (no
defined range), images over MAX_PIXELS (decompression bombs), and whatever does not decode to its end.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections import OrderedDict
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from sightline.data.encode import RowError
from sightline.data.row import ImageRef, Where

MAX_PIXELS = 89_478_485  # Pillow's own warning limit: a quarter of a GiB as 24-bit RGB
STILL = frozenset({"MPO", "JPEG"})  # a phone's multi-picture JPEG is a photo with previews, not an animation
BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)


def load_image(ref: ImageRef, where: Where) -> Image.Image:
    """The image of `ref`, RGB. Raises RowError naming the image and the row that shows it."""
    image = _opened(ref, where)
    return ref.view(image) if ref.view else image


class RecentImages:
    """The last few images that were decoded. A row's are asked for to count its tokens and again for its batch."""

    def __init__(self, most: int = 64) -> None:
        self._most = most
        self._kept: OrderedDict[str, Image.Image] = OrderedDict()

    def get(self, ref: ImageRef, where: Where) -> Image.Image:
        """The image, RGB, not to be changed in place. Raises RowError as `load_image` does."""
        if ref.key in self._kept:
            self._kept.move_to_end(ref.key)
            return self._kept[ref.key]
        self._kept[ref.key] = image = load_image(ref, where)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return image

    def __reduce__(self) -> tuple[type[RecentImages], tuple[int]]:
        return RecentImages, (self._most,)  # a data loading process starts with none


def probe_image(ref: ImageRef, where: Where) -> None:
    """Decode the image to its end and forget it; JPEGs at an eighth of their size, which finds the same faults."""
    _opened(ref, where, reduce=True)


def _opened(ref: ImageRef, where: Where, *, reduce: bool = False) -> Image.Image:
    name = str(ref.path) if ref.path is not None else ref.key
    try:
        with Image.open(_source(ref)) as image:
            _refuse(image, name, where)
            if reduce:
                image.draft("RGB", (image.width // 8, image.height // 8))
            return _rgb(image, name, where)
    except RowError:
        raise
    except FileNotFoundError as error:
        raise RowError(f"image {name} does not exist", where, fix="correct the path or the 'images' folder") from error
    except Image.UnidentifiedImageError as error:
        raise RowError(f"image {name} is not an image that Pillow can read", where) from error
    except Image.DecompressionBombError as error:
        raise RowError(_bomb(name), where, fix="scale it down beforehand") from error
    except BROKEN as error:
        raise RowError(f"image {name} is broken: {error}", where, fix="replace it, or set broken: skip") from error


def _source(ref: ImageRef) -> Path | io.BytesIO:
    if ref.path is not None:
        return ref.path
    data = ref.data if ref.data is not None else ref.read() if ref.read is not None else b""
    return io.BytesIO(data)


def _bomb(name: str, size: str = "") -> str:
    return f"image {name} {size}is over the limit of {MAX_PIXELS:,} pixels (a decompression bomb?)"


def _refuse(image: Image.Image, name: str, where: Where) -> None:
    """Refuse by what the header alone tells, before any pixel is decoded."""
    if image.width * image.height > MAX_PIXELS:
        raise RowError(_bomb(name, f"({image.width} x {image.height}) "), where, fix="scale it down beforehand")
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format not in STILL:
        raise RowError(
            f"image {name} has {frames} frames ({image.format}), and one picture is needed",
            where,
            fix="save the frame you mean as its own image",
        )


def _rgb(image: Image.Image, name: str, where: Where) -> Image.Image:
    mode = image.mode
    if mode == "F":
        raise RowError(f"image {name} has floating-point pixels, whose range is unknown", where, fix="save it as 8-bit")
    image.load()  # decode to the end here, so that a truncated file is known as such
    upright = ImageOps.exif_transpose(image)
    if mode.startswith("I"):
        upright = _eight_bit(upright, name, where)
    if upright.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in upright.info:
        rgba = upright.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return upright if upright.mode == "RGB" else upright.convert("RGB")


def _eight_bit(image: Image.Image, name: str, where: Where) -> Image.Image:
    """Grey of 16 bits scaled to 8 (65535 becomes 255); Pillow's own conversion would clip at 255."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise RowError(f"image {name} has pixels outside 0..65535", where, fix="save it as 8- or 16-bit")
    return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
