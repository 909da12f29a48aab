"""The corruptions: the paper's figures, laws that each obeys, and that seed and picture alone decide."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from sightline.evaluate.robust.corruptions import blur, digital, noise
from sightline.evaluate.robust.corruptions.catalogue import ALL, FAMILIES, corrupted
from sightline.evaluate.robust.corruptions.filters import along, gaussian, plasma, sample, zoomed

RANDOM = {
    *("gaussian-noise", "shot-noise", "impulse-noise", "speckle-noise", "glass-blur", "motion-blur"),
    *("snow", "frost", "fog", "elastic"),
}
# The others are in no order of pixels in the paper, either: its elastic bends widely first and finely later.
ORDERED = {*FAMILIES["noise"], "defocus-blur", "gaussian-blur", "zoom-blur", "brightness", "contrast", "jpeg"}


def scene(side: int = 64) -> Image.Image:
    """A smooth, colourful picture with an edge."""
    y, x = np.mgrid[0:side, 0:side] / side
    made = np.stack([0.2 + 0.6 * x, 0.3 + 0.4 * y, 0.5 + 0.3 * np.sin(6 * x)], -1)
    made[side // 3 : side // 2, side // 4 : side // 2] = (0.9, 0.2, 0.1)
    return Image.fromarray((made * 255).round().astype(np.uint8))


def array(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(float) / 255


def flat(value: float = 0.5, side: int = 128) -> np.ndarray:
    return np.full((side, side, 3), value)


def numbers() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("name", ALL)
def test_every_severity_gives_a_picture_and_the_same_one_again(name):
    image = scene()
    made = [corrupted(image, name, severity) for severity in range(1, 6)]
    assert all(each.size == image.size and each.mode == "RGB" for each in made)
    assert made[2].tobytes() == corrupted(image, name, 3).tobytes()
    far = [np.abs(array(each) - array(image)).mean() for each in made]
    assert min(far) > 0
    if name in ORDERED:
        assert far == sorted(far), far
    other = corrupted(image, name, 3, seed=1)
    assert (other.tobytes() != made[2].tobytes()) == (name in RANDOM)


@pytest.mark.parametrize("size", [(20, 33), (150, 90)])
def test_any_shape(size):
    image = scene(100).resize(size)
    for name in ALL:
        assert corrupted(image, name, 5).size == size
    assert min(corrupted(image, "fog", 1, side=16).size) == 16


def test_families_hold_all_and_each_once():
    assert sorted(name for members in FAMILIES.values() for name in members) == sorted(ALL)
    assert len(ALL) == 18 and list(FAMILIES) == ["noise", "blur", "weather", "digital"]


@pytest.mark.parametrize("severity", [1, 5])
def test_noise_has_the_paper_s_moments(severity):
    grey = flat()
    assert noise.gaussian_noise(grey, severity, numbers()).std() == pytest.approx(
        noise.GAUSSIAN[severity - 1], rel=0.02
    )
    assert noise.speckle_noise(grey, severity, numbers()).std() == pytest.approx(
        noise.SPECKLE[severity - 1] / 2, rel=0.02
    )
    shot, photons = noise.shot_noise(grey, severity, numbers()), noise.SHOT[severity - 1]
    assert shot.mean() == pytest.approx(0.5, abs=0.01) and shot.var() == pytest.approx(0.5 / photons, rel=0.05)
    hit = noise.impulse_noise(grey, severity, numbers()) != 0.5
    assert hit.mean() == pytest.approx(noise.IMPULSE[severity - 1], rel=0.05)


def test_blurs_move_no_light_and_leave_a_flat_picture_flat():
    for name, corrupt in FAMILIES["blur"].items():
        np.testing.assert_allclose(corrupt(flat(0.3), 5, numbers()), 0.3, atol=1e-9, err_msg=name)
    dot = np.zeros((63, 63, 1))
    dot[31, 31] = 1.0
    for corrupt in (blur.defocus_blur, blur.gaussian_blur, blur.motion_blur):
        assert corrupt(dot, 4, numbers()).sum() == pytest.approx(1, abs=1e-6)
    spread = gaussian(dot, 2.0)[..., 0]
    y = np.arange(63) - 31
    assert (spread.sum(1) * y**2).sum() == pytest.approx(4.0, rel=0.05)  # variance of the kernel


def test_a_corruption_covers_the_same_share_of_any_picture():
    """Lengths follow the size: corrupted large and scaled down is about corrupted small."""
    for name in ("gaussian-blur", "defocus-blur"):
        large = corrupted(scene(224), name, 4).resize((56, 56), Image.Resampling.BOX)
        small = corrupted(scene(224).resize((56, 56), Image.Resampling.BOX), name, 4)
        assert np.abs(array(large) - array(small)).mean() < 0.01, name


def test_weather_and_light():
    image = array(scene())
    bright = FAMILIES["weather"]["brightness"](image, 2, numbers())
    np.testing.assert_allclose(bright.max(-1), (image.max(-1) + 0.2).clip(0, 1), atol=1e-9)
    dark = FAMILIES["weather"]["brightness"](np.zeros((4, 4, 3)), 3, numbers())
    np.testing.assert_allclose(dark, 0.3)
    grey = digital.contrast(image, 5, numbers())
    np.testing.assert_allclose(grey.std((0, 1)), image.std((0, 1)) * 0.05)
    np.testing.assert_allclose(grey.mean((0, 1)), image.mean((0, 1)))
    pale = digital.saturate(image, 2, numbers())
    own, new = ((each.max(-1) - each.min(-1)) / each.max(-1) for each in (image, pale))
    np.testing.assert_allclose(new, own * 0.1, atol=1e-6)
    assert FAMILIES["weather"]["fog"](image, 3, numbers()).max() <= image.max() + 1e-9


def test_digital_is_pillow_s():
    image = scene()
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=10)
    assert corrupted(image, "jpeg", 4).tobytes() == Image.open(buffer).convert("RGB").tobytes()
    coarse = image.resize((19, 19), Image.Resampling.BOX).resize(image.size, Image.Resampling.BOX)
    assert corrupted(image, "pixelate", 4).tobytes() == coarse.tobytes()


def test_filters():
    image = array(scene(16))
    y, x = np.mgrid[0:16, 0:16].astype(float)
    np.testing.assert_allclose(sample(image, y, x), image)
    np.testing.assert_allclose(sample(image, y, x - 1)[:, 1:], image[:, :-1])
    np.testing.assert_allclose(sample(image, y - 0.5, x)[1:], (image[1:] + image[:-1]) / 2)
    np.testing.assert_allclose(zoomed(image, 1.0), image)
    level = along(image, 1, 1e9, 0)  # half of the pixel, half of the one to its right
    np.testing.assert_allclose(level[:, :-1], (image[:, :-1] + image[:, 1:]) / 2)
    clouds = plasma(40, 60, 2.0, numbers())
    assert clouds.shape == (40, 60) and clouds.min() == 0 and clouds.max() == 1
