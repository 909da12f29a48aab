"""Prints of images and texts: near to their copies, far from everything else. Photos where the data are there."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from sightline.attach.likeness import IMAGE, alike, image_prints, text_prints

PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "coco_tiny"


def pixels(images: list[Image.Image], side: int = 96) -> torch.Tensor:
    rows = [np.array(image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)) for image in images]
    return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2)


def jpeg(image: Image.Image, quality: int = 30) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    if not PHOTOS.is_dir():
        pytest.skip("../shared/data/coco_tiny is not here")
    return [Image.open(path).convert("RGB") for path in sorted(PHOTOS.glob("*/*.jpg"))]


@pytest.mark.parametrize(
    ("copy", "least"),
    [
        (lambda image: jpeg(image), 1.0),
        (lambda image: image.resize((image.width // 2, image.height // 2)), 1.0),
        (lambda image: jpeg(image.resize((image.width // 3, image.height // 3)), 40), 1.0),
        (lambda image: ImageEnhance.Contrast(image).enhance(0.6), 1.0),
        (lambda image: ImageEnhance.Brightness(image).enhance(1.4), 0.9),
    ],
    ids=["JPEG", "half", "small and JPEG", "contrast", "brighter"],
)
def test_a_copy_of_a_photo_is_near_to_it(
    photos: list[Image.Image], copy: Callable[[Image.Image], Image.Image], least: float
) -> None:
    near = alike(image_prints(pixels([copy(photo) for photo in photos])), image_prints(pixels(photos)))
    assert near.diagonal().float().mean() >= least
    assert int(near.sum()) == int(near.diagonal().sum())


def test_no_photo_is_near_to_another_by_twice_the_threshold(photos: list[Image.Image]) -> None:
    bits = image_prints(pixels(photos))[:, :-1].float()
    apart = torch.cdist(bits, bits, p=0) / bits.shape[1] + torch.eye(len(bits))
    assert apart.min() > 2 * IMAGE


def test_range_and_normalisation_do_not_matter() -> None:
    low = torch.rand(6, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    image = torch.nn.functional.interpolate(low, size=64, mode="bicubic").clamp(0, 1)
    prints = image_prints(image)
    for other in ((image * 255).to(torch.uint8), (image - 0.5) / 0.25, image.half()):
        assert torch.equal(alike(prints, image_prints(other)), torch.eye(6, dtype=torch.bool))


def test_flat_images_are_near_to_nothing() -> None:
    flat = image_prints(torch.stack([torch.full((1, 8, 8), value) for value in (0.0, 0.3, 1.0)]))
    assert not alike(flat, flat).any()


def test_a_few_words_changed_and_many() -> None:
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 500, (20, 200), generator=draw)
    few, many = ids.clone(), ids.clone()
    few[:, 50:53] = 7
    many[:, ::10] = 7
    prints = text_prints(ids)
    assert torch.equal(alike(text_prints(few), prints), torch.eye(20, dtype=torch.bool))
    assert not alike(text_prints(many), prints).any()
    longer = torch.cat([ids, torch.full((20, 30), -1)], dim=1)
    assert torch.equal(text_prints(longer), prints)


def test_short_texts_are_near_to_nothing() -> None:
    ids = torch.arange(20).repeat(3, 1)
    assert not alike(text_prints(ids), text_prints(ids)).any()
    padded = torch.cat([ids, torch.full((3, 40), -1)], dim=1)
    assert not alike(text_prints(padded), text_prints(padded)).any()
