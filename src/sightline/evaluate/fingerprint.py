"""Fingerprints of images: by their bytes, by their pixels, and by what they look like.

The look is the sign of 256 cosine frequencies of the picture in grey, 64 x 64 (a perceptual hash: Zauner 2010,
phash.org; the lowest frequencies, which hold brightness and slow gradients, are left out). On COCO photos two different
ones differ in 98 to 160 of the 256 bits (mean 128, standard deviation 8.2); the same one after JPEG of quality 20 in at
most 8, at a third of its size in at most 22, after cutting 5 % off all around in 44 (95 %: 60), a corner of 2 % in 38
(95 %: 52). So `ALIKE` keeps eight standard deviations from chance, enough for 10^10 pairs.

Drawings of a few plain shapes look alike to any such hash though they are different pictures. Where more than `EVEN` of
all neighbouring pixels are the same (photos of COCO: 4 to 90 %, 19 of 20 below 67 %; easy-VQA, NLVR and charts: over
94 %, as JPEG over 72 %), an image is `flat`: only its very pixels are compared.
"""

from __future__ import annotations

import hashlib
import io
import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from sightline.data.encode import RowError
from sightline.data.images import BROKEN, load_image
from sightline.data.row import ImageRef, Where

SIDE, FREQUENCIES = 64, 16
BITS = FREQUENCIES**2
ALIKE = 60  # bits of 256 that may differ between two copies of one picture
SAME, EVEN = 2, 0.7  # neighbours within 2 of 255 levels are the same; from this share of them on an image is flat
SCALED = 128  # a larger JPEG is decoded at the least scale of 1/2, 1/4 or 1/8 that keeps so many pixels a side
MANY = 1000  # images from which on fingerprints are kept on disk
AT_ONCE = 64
VERSION = 1  # of what is kept: to be raised with any change of the figures above

Looks = Literal["detailed", "flat", "plain"]
LOOKS: tuple[Looks, ...] = ("detailed", "flat", "plain")
_WAVES = np.cos(np.pi * np.outer(np.arange(FREQUENCIES + 1), 2 * np.arange(SIDE) + 1) / (2 * SIDE))


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """`content`, `pixels`: hashes of 16 bytes. `bits`: the look, 32 bytes, its 64 lowest frequencies first.

    `looks`: "flat" for drawings (see above), "plain" for a single colour, which tells nothing of where it comes from.
    """

    content: bytes
    pixels: bytes
    bits: bytes
    looks: Looks

    def pack(self) -> bytes:
        """As 65 bytes."""
        return self.content + self.pixels + self.bits + bytes([LOOKS.index(self.looks)])

    @classmethod
    def unpack(cls, packed: bytes) -> Fingerprint:
        """What `pack` made."""
        return cls(packed[:16], packed[16:32], packed[32:64], LOOKS[packed[64]])


def fingerprint(data: bytes, where: Where) -> Fingerprint:
    """The fingerprint of an encoded image. Raises RowError where it cannot be decoded."""
    image = _decoded(data, where)
    pixels = np.asarray(image)
    digest = hashlib.blake2b(repr(image.size).encode() + pixels.tobytes(), digest_size=16)
    looks: Looks = "detailed"
    if (pixels == pixels[:1, :1]).all():
        looks = "plain"
    elif _evenness(pixels) > EVEN:
        looks = "flat"
    return Fingerprint(hashlib.blake2b(data, digest_size=16).digest(), digest.digest(), look(image), looks)


def look(image: Image.Image) -> bytes:
    """The 256 bits of what `image` looks like, as 32 bytes."""
    grey = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS), float)
    waves = (_WAVES @ grey @ _WAVES.T)[1:, 1:]
    half = FREQUENCIES // 2
    low = np.zeros((FREQUENCIES, FREQUENCIES), bool)
    low[:half, :half] = True
    ordered = np.concatenate([waves[low], waves[~low]])
    return np.packbits(ordered > np.median(ordered)).tobytes()


def words(prints: Iterable[Fingerprint]) -> NDArray[np.uint64]:
    """(N, 4): the bits of each look."""
    return np.frombuffer(b"".join(each.bits for each in prints), np.uint64).reshape(-1, BITS // 64)


def fingerprints(
    images: Sequence[tuple[ImageRef, Where]], tell: Callable[[int], None]
) -> dict[str, Fingerprint | None]:
    """Key -> fingerprint; None where an image cannot be read.

    Those of `MANY` files or more are kept in the user's cache folder, by path, size and time of change.
    """
    with closing(_Kept(len(images) >= MANY)) as kept, ThreadPoolExecutor(max(1, min(8, os.cpu_count() or 1))) as pool:
        found: dict[str, Fingerprint | None] = {}
        for start in range(0, len(images), AT_ONCE):
            some = images[start : start + AT_ONCE]
            found |= zip(
                (ref.key for ref, _ in some), pool.map(lambda one: _one(one[0], one[1], kept), some), strict=True
            )
            kept.write()
            tell(len(some))
        return found


def _one(ref: ImageRef, where: Where, kept: _Kept) -> Fingerprint | None:
    try:
        if (known := kept.get(ref)) is not None:
            return known
        data = (
            ref.path.read_bytes() if ref.path else ref.data if ref.data is not None else ref.read() if ref.read else b""
        )
        made = fingerprint(data, where)
    except (RowError, *BROKEN):
        return None
    kept.put(ref, made)
    return made


def _decoded(data: bytes, where: Where) -> Image.Image:
    if not data.startswith(b"\xff\xd8"):
        return load_image(ImageRef("image", data=data), where)
    with Image.open(io.BytesIO(data)) as image:
        image.draft("RGB", (SCALED, SCALED))
        return ImageOps.exif_transpose(image).convert("RGB")


def _evenness(pixels: NDArray[np.uint8]) -> float:
    """The share of neighbouring pixels that are the same."""
    shares = []
    for one, other in ((pixels[1:], pixels[:-1]), (pixels[:, 1:], pixels[:, :-1])):
        if one.size:
            same = np.maximum(one, other) - np.minimum(one, other) <= SAME  # of 8 bits: a plain difference would wrap
            shares.append((same[..., 0] & same[..., 1] & same[..., 2]).mean())
    return float(np.mean(shares)) if shares else 1.0


class _Kept:
    """Fingerprints of files, from one evaluation to the next. Where the folder cannot be written, nothing is kept."""

    def __init__(self, on: bool) -> None:
        self._known: dict[tuple[str, int, int], bytes] = {}
        self._new: list[tuple[str, int, int, bytes]] = []
        self._file: sqlite3.Connection | None = None
        if not on:
            return
        try:
            folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sightline"
            folder.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(folder / f"fingerprints-{VERSION}.sqlite", timeout=5)
            columns = "path TEXT PRIMARY KEY, size INTEGER, changed INTEGER, print BLOB"
            self._file.execute(f"CREATE TABLE IF NOT EXISTS prints ({columns})")
            lines = self._file.execute("SELECT path, size, changed, print FROM prints")
            self._known = {(path, size, changed): packed for path, size, changed, packed in lines}
        except (OSError, RuntimeError, sqlite3.Error):  # no home, a full disk, a file that is no database
            self._file = None

    def get(self, ref: ImageRef) -> Fingerprint | None:
        """The fingerprint of a file that has not changed since."""
        packed = self._known.get(_state(ref.path)) if self._known and ref.path else None
        return Fingerprint.unpack(packed) if packed else None

    def put(self, ref: ImageRef, made: Fingerprint) -> None:
        """Keep it with the next `write`."""
        if self._file is not None and ref.path:
            self._new.append((*_state(ref.path), made.pack()))

    def write(self) -> None:
        """Write what is new."""
        if self._file is None or not self._new:
            return
        try:
            with self._file:
                self._file.executemany("INSERT OR REPLACE INTO prints VALUES (?, ?, ?, ?)", self._new)
        except sqlite3.Error:
            self._file = None
        self._new = []

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def _state(path: Path) -> tuple[str, int, int]:
    facts = path.stat()
    return str(path), facts.st_size, facts.st_mtime_ns
