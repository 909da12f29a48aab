"""Decoding: every kind of picture comes out right, or is refused by name."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sightline.data import images
from sightline.data.encode import RowError
from sightline.data.images import RecentImages, load_image, probe_image
from sightline.data.row import ImageRef, Where
from tests.data.made import picture

PLACE = Where("data.json", 5)


def stored(image: Image.Image, kind: str, **options) -> ImageRef:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return ImageRef(f"made.{kind.lower()}", data=buffer.getvalue())


def loaded(ref: ImageRef) -> np.ndarray:
    probe_image(ref, PLACE)
    image = load_image(ref, PLACE)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def test_exif_rotation_is_applied() -> None:
    """Orientation 6: the camera was turned, and the picture is shown a quarter turn clockwise."""
    exif = Image.Exif()
    exif[0x0112] = 6
    given = loaded(stored(picture(size=(24, 16)), "PNG", exif=exif))
    assert np.array_equal(given, np.rot90(np.asarray(picture(size=(24, 16))).astype(int), k=-1))


@pytest.mark.parametrize("mode", ["CMYK", "P", "L", "1", "YCbCr"])
def test_other_modes_are_converted(mode: str) -> None:
    kind = {"CMYK": "TIFF", "YCbCr": "TIFF"}.get(mode, "PNG")
    source = picture().convert(mode)
    assert np.abs(loaded(stored(source, kind)) - np.asarray(source.convert("RGB")).astype(int)).max() <= 1


@pytest.mark.parametrize("byteorder", ["I;16", "I;16B"])
def test_sixteen_bits_are_scaled_not_clipped(byteorder: str) -> None:
    """0, a quarter, a half and all of the range; clipping would make the last three equal."""
    values = np.array([[0, 16384, 32768, 65535]], dtype=">u2" if byteorder.endswith("B") else "<u2")
    image = Image.frombytes(byteorder, (4, 1), values.tobytes())
    assert loaded(stored(image, "TIFF"))[0, :, 0].tolist() == [0, 64, 128, 255]
    if byteorder == "I;16":
        assert loaded(stored(image, "PNG"))[0, :, 0].tolist() == [0, 64, 128, 255]


def test_transparency_is_laid_on_white() -> None:
    half = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    half.putpixel((1, 0), (255, 0, 0, 0))
    assert loaded(stored(half, "PNG")).tolist() == [[[255, 0, 0], [255, 255, 255]]]
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([10, 20, 30] * 256)
    assert loaded(stored(palette, "PNG", transparency=0)).tolist() == [[[255, 255, 255]]]
    assert loaded(stored(palette, "PNG")).tolist() == [[[10, 20, 30]]]


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_animations_are_refused_and_stills_are_not(kind: str) -> None:
    frames = [picture("red"), picture("blue")]
    with pytest.raises(RowError, match=r"data.json row 5: .* has 2 frames"):
        load_image(stored(frames[0], kind, save_all=True, append_images=frames[1:]), PLACE)
    loaded(stored(frames[0], kind))


def test_a_phones_multi_picture_jpeg_is_a_photo() -> None:
    ref = stored(picture("red"), "MPO", save_all=True, append_images=[picture("blue")])
    assert np.abs(loaded(ref) - np.asarray(picture("red")).astype(int)).mean() < 20


def test_bombs_are_refused_with_the_limit(monkeypatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 1000)
    loaded(stored(picture(size=(25, 40)), "PNG"))
    with pytest.raises(RowError, match=r"\(25 x 41\) is over the limit of 1,000 pixels"):
        load_image(stored(picture(size=(25, 41)), "PNG"), PLACE)


def test_pillows_own_bomb_error_is_told_the_same(monkeypatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(RowError, match="decompression bomb"):
        load_image(stored(picture(size=(25, 41)), "PNG"), PLACE)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("look", [load_image, probe_image])
def test_truncated_images_are_told(kind: str, look) -> None:
    whole = stored(Image.effect_noise((200, 200), 90).convert("RGB"), kind)
    look(whole, PLACE)
    with pytest.raises(RowError, match=r"data.json row 5: image made"):
        look(ImageRef(whole.key, data=whole.data[: len(whole.data) // 2]), PLACE)


def test_what_is_no_image_is_told(tmp_path) -> None:
    with pytest.raises(RowError, match="is not an image"):
        load_image(ImageRef("x", data=b"<html>not found</html>"), PLACE)
    with pytest.raises(RowError, match="is not an image"):
        load_image(ImageRef("x", data=b""), PLACE)
    with pytest.raises(RowError, match=r"gone.png does not exist"):
        load_image(ImageRef("x", tmp_path / "gone.png"), PLACE)
    with pytest.raises(RowError, match="broken"):
        load_image(ImageRef("x", tmp_path), PLACE)
    with pytest.raises(RowError, match="floating-point"):
        load_image(stored(Image.new("F", (2, 2), 0.5), "TIFF"), PLACE)


def test_recent_images_decode_once_and_forget_the_oldest(tmp_path: Path) -> None:
    refs = []
    for number in range(3):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / f"{number}.png")
        refs.append(ImageRef(f"image-{number}", path=tmp_path / f"{number}.png"))
    recent, where = RecentImages(most=2), Where("rows.json", 1)
    first = recent.get(refs[0], where)
    (tmp_path / "0.png").unlink()
    assert recent.get(refs[0], where) is first
    recent.get(refs[1], where)
    recent.get(refs[2], where)
    with pytest.raises(RowError):
        recent.get(refs[0], where)  # forgotten, and its file is gone
    assert pickle.loads(pickle.dumps(recent)).get(refs[1], where).getpixel((0, 0)) == (1, 0, 0)
