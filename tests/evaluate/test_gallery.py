from __future__ import annotations

import base64
import io
from pathlib import Path

import pytest
from PIL import Image

from sightline.evaluate.gallery import choose, gallery, thumbnail
from tests.evaluate import tiny


@pytest.mark.parametrize(
    ("right", "wrong", "size", "shown_right", "shown_wrong"),
    [(50, 50, 10, 5, 5), (99, 1, 10, 9, 1), (2, 98, 10, 2, 8), (3, 2, 10, 3, 2), (5, 0, 4, 4, 0), (0, 9, 4, 0, 4)],
)
def test_right_and_wrong_are_balanced(
    tmp_path: Path, right: int, wrong: int, size: int, shown_right: int, shown_wrong: int
) -> None:
    refs = tiny.pictures(tmp_path)
    rows = [tiny.row(i, "q", "a", refs[i % len(refs)]) for i in range(right + wrong)]
    correct = [place < right for place in range(len(rows))]
    chosen = choose(rows, correct, size)
    assert sum(correct[place] for place in chosen) == shown_right
    assert sum(not correct[place] for place in chosen) == shown_wrong
    assert len(set(chosen)) == len(chosen)
    assert chosen == choose(rows, correct, size)


def test_images_differ_while_there_are_enough(tmp_path: Path) -> None:
    refs = tiny.pictures(tmp_path)
    rows = [tiny.row(i, "q", "a", refs[i // 10]) for i in range(60)]
    chosen = choose(rows, [True] * 60, len(refs))
    assert len({rows[place].images[0].key for place in chosen}) == len(refs)


def test_rows_without_an_image_are_left_out(tmp_path: Path) -> None:
    refs = tiny.pictures(tmp_path)
    rows = [tiny.row(1, "q", "a"), tiny.row(2, "q", "b", refs[0])]
    (shown,) = gallery(rows, ["x", "y"], [None, None], 10)
    assert shown["truth"] == "b" and shown["answer"] == "y" and shown["correct"] is None


@pytest.mark.parametrize("size", [(64, 64), (160, 20), (900, 300), (200, 1000)])
def test_thumbnails_are_small_pngs_of_the_same_shape(size: tuple[int, int]) -> None:
    uri = thumbnail(Image.new("RGB", size, "red"))
    head, _, data = uri.partition(",")
    assert head == "data:image/png;base64"
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert max(picture.size) == min(160, max(size))
    assert picture.width / picture.height == pytest.approx(size[0] / size[1], rel=0.05)
    assert picture.getpixel((0, 0)) == (255, 0, 0)
