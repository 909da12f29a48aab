from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sightline.data.images import load_image
from sightline.data.row import ImageRef, Row
from sightline.evaluate.looking import conditions
from sightline.models.build import Built
from tests.evaluate import tiny


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    return tiny.questions(tiny.pictures(tmp_path))


@pytest.fixture
def built(rows: list[Row]) -> Built:
    return tiny.model(rows)


def pixels(row: Row) -> np.ndarray:
    return np.asarray(load_image(row.images[0], row.where)).astype(int)


def test_blurring_keeps_the_mean_and_loses_the_edge(tmp_path: Path) -> None:
    drawn = np.zeros((64, 96, 3), np.uint8)
    drawn[:, 48:] = 255
    Image.fromarray(drawn).save(tmp_path / "edge.png")
    ref = ImageRef("edge", path=tmp_path / "edge.png")
    made = conditions.blurred([tiny.row(1, "q", "a", ref), tiny.row(2, "r", "a", ref)])
    assert "Gaussian, sigma 1/16 of its shorter side" in made.description
    assert made.rows[0].images[0] is made.rows[1].images[0] and made.rows[0].images[0].key != "edge"
    seen = pixels(made.rows[0])
    assert seen.shape == drawn.shape and abs(seen.mean() - drawn.mean()) < 2
    # A Gaussian of sigma 4 has 2.3 % of its weight beyond two sigma.
    assert seen[32, 40, 0] == pytest.approx(255 * 0.023, abs=6) and np.abs(np.diff(seen[32, :, 0])).max() < 30


def test_noise_is_a_few_images_of_the_towers_size_and_the_same_every_time(rows: list[Row], built: Built) -> None:
    made, again = (conditions.noise(rows, built.encoder, 0) for _ in range(2))
    assert [row.images[0].key for row in made.rows] == [row.images[0].key for row in again.rows]
    assert 1 < len({row.images[0].key for row in made.rows}) <= conditions.NOISES
    seen = pixels(made.rows[0])
    assert seen.shape == (16, 16, 3) and (seen == pixels(again.rows[0])).all()
    assert abs(seen.mean() - 127.5) < 12 and seen.std() > 60
    assert (seen != pixels(conditions.noise(rows, built.encoder, 1).rows[0])).any()


def test_no_image_leaves_the_words_and_no_image_token(rows: list[Row], built: Built) -> None:
    made = conditions.no_image(rows)
    for row, bare in zip(rows, made.rows, strict=True):
        ids = built.encoder.encode_prompt(bare).input_ids
        assert bare.question == row.question and bare.answer == row.answer
        assert built.encoder.image_token_id not in ids
        with_image = built.encoder.encode_prompt(row).input_ids
        assert [token for token in with_image if token != built.encoder.image_token_id] == list(ids)


def test_a_mean_colour_image_is_nothing_to_the_tower(rows: list[Row], built: Built) -> None:
    made = conditions.mean_colour(rows, built.encoder)
    assert len({row.images[0].key for row in made.rows}) == 1
    mean = built.encoder.image_processor.mean  # type: ignore[attr-defined]
    assert np.allclose(pixels(made.rows[0]) / 255, mean, atol=1 / 255)


def test_a_broken_image_is_told_by_the_row_that_shows_it(tmp_path: Path) -> None:
    from sightline.data.encode import RowError

    (tmp_path / "torn.png").write_bytes(b"not an image")
    made = conditions.blurred([tiny.row(7, "q", "a", ImageRef("torn", path=tmp_path / "torn.png"))])
    with pytest.raises(RowError, match=r"test.json row 7: image .*torn.png"):
        load_image(made.rows[0].images[0], made.rows[0].where)
