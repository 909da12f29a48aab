from __future__ import annotations

import io
import os
import sqlite3
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from sightline.data.row import ImageRef, Where
from sightline.evaluate import fingerprint as made
from sightline.evaluate.fingerprint import ALIKE, Fingerprint, fingerprint, fingerprints, words

PLACE = Where("test", 1)
COCO = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco_tiny"
photos_here = pytest.mark.skipif(not COCO.is_dir(), reason=f"no COCO photos at {COCO.name}")


def encoded(image: Image.Image, form: str = "PNG", **how: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **how)
    return buffer.getvalue()


def apart(one: Fingerprint, other: Fingerprint) -> int:
    first, second = words([one, other])
    return int(np.unpackbits((first ^ second).view(np.uint8)).sum())


def cut(image: Image.Image, share: float, *, corner: bool = False) -> Image.Image:
    width, height = (round(side * (1 - share)) for side in image.size)
    left, top = (0, 0) if corner else ((image.width - width) // 2, (image.height - height) // 2)
    return image.crop((left, top, left + width, top + height))


COPIES: dict[str, Callable[[Image.Image], bytes]] = {
    "JPEG 50": lambda image: encoded(image, "JPEG", quality=50),
    "JPEG 20": lambda image: encoded(image, "JPEG", quality=20),
    "half": lambda image: encoded(image.resize((image.width // 2, image.height // 2))),
    "224 x 224": lambda image: encoded(image.resize((224, 224), Image.Resampling.BICUBIC), "JPEG"),
    "grey": lambda image: encoded(image.convert("L")),
    "2 % cut off": lambda image: encoded(cut(image, 0.02), "JPEG"),
    "2 % cut off a corner": lambda image: encoded(cut(image, 0.02, corner=True), "JPEG"),
}


@pytest.fixture(scope="module")
def photos() -> list[Path]:
    return sorted((COCO / "val2017").glob("*.jpg"))[:25]


@photos_here
@pytest.mark.parametrize("how", COPIES)
def test_copies_of_a_photo_are_alike(photos: list[Path], how: str) -> None:
    bits = []
    for path in photos[:12]:
        with Image.open(path) as image:
            bits.append(apart(fingerprint(path.read_bytes(), PLACE), fingerprint(COPIES[how](image), PLACE)))
    assert max(bits) <= ALIKE


@photos_here
def test_different_photos_are_far_apart_and_detailed(photos: list[Path]) -> None:
    prints = [fingerprint(path.read_bytes(), PLACE) for path in photos]
    assert min(apart(one, other) for one, other in combinations(prints, 2)) >= ALIKE + 30
    assert sum(each.looks == "flat" for each in prints) <= len(prints) // 10


def drawing(x: int, size: int, colour: str = "teal") -> Image.Image:
    image = Image.new("RGB", (64, 64), (240, 238, 230))
    ImageDraw.Draw(image).ellipse((x, 20, x + size, 20 + size), fill=colour)
    return image


def test_drawings_are_flat_also_as_jpeg_and_one_colour_is_plain() -> None:
    assert fingerprint(encoded(drawing(10, 20)), PLACE).looks == "flat"
    assert fingerprint(encoded(drawing(10, 20), "JPEG", quality=90), PLACE).looks == "flat"
    assert fingerprint(encoded(Image.new("RGB", (64, 64), "teal")), PLACE).looks == "plain"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    assert fingerprint(encoded(Image.fromarray(noise)), PLACE).looks == "detailed"


def test_pixels_are_told_apart_from_bytes() -> None:
    one, other = (fingerprint(encoded(drawing(10, 20), compress_level=level), PLACE) for level in (1, 9))
    assert one.content != other.content and one.pixels == other.pixels
    assert fingerprint(encoded(drawing(11, 20)), PLACE).pixels != one.pixels
    assert fingerprint(encoded(drawing(10, 20, "navy")), PLACE).pixels != one.pixels


def test_a_fingerprint_comes_out_as_it_went_in() -> None:
    one = fingerprint(encoded(drawing(10, 20)), PLACE)
    assert len(one.pack()) == 65 and Fingerprint.unpack(one.pack()) == one


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(made, "MANY", 2)
    return tmp_path / "cache" / "sightline" / f"fingerprints-{made.VERSION}.sqlite"


def save(folder: Path, count: int = 3) -> list[tuple[ImageRef, Where]]:
    refs = []
    for number in range(count):
        path = folder / f"{number}.png"
        path.write_bytes(encoded(drawing(5 * number, 20)))
        refs.append((ImageRef(str(path), path=path), PLACE))
    return refs


def test_fingerprints_of_many_files_are_kept_until_a_file_changes(tmp_path: Path, cache: Path) -> None:
    refs, told = save(tmp_path), list[int]()
    first = fingerprints(refs, told.append)
    assert sum(told) == 3 and cache.is_file()
    with sqlite3.connect(cache) as file:  # what is kept is used: a mark in it comes back
        file.execute("UPDATE prints SET print = ? WHERE path LIKE '%0.png'", (bytes(65),))
    again = fingerprints(refs, told.append)
    assert again[refs[0][0].key] == Fingerprint(bytes(16), bytes(16), bytes(32), "detailed")
    assert again[refs[1][0].key] == first[refs[1][0].key]
    os.utime(refs[0][0].path or "", ns=(1, 1))
    assert fingerprints(refs, told.append) == first


def test_a_cache_that_is_no_database_or_cannot_be_made_is_done_without(tmp_path: Path, cache: Path) -> None:
    refs = save(tmp_path)
    cache.parent.mkdir(parents=True)
    cache.write_bytes(b"this is no database, and long enough to be read as a header of one, which it is not at all....")
    assert all(fingerprints(refs, lambda more: None).values())
    cache.unlink()
    cache.parent.rmdir()
    cache.parent.write_text("in the way")
    assert all(fingerprints(refs, lambda more: None).values())


def test_an_image_that_cannot_be_read_has_none(tmp_path: Path) -> None:
    (tmp_path / "torn.png").write_bytes(encoded(drawing(1, 2))[:50])
    refs = [ImageRef("torn", path=tmp_path / "torn.png"), ImageRef("gone", path=tmp_path / "gone.png")]
    assert fingerprints([(ref, PLACE) for ref in refs], lambda more: None) == {"torn": None, "gone": None}
