from __future__ import annotations

import json
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sightline.commands.summary import describe
from sightline.data.row import ImageRef, Row
from sightline.evaluate.leaks import find_leaks
from sightline.evaluate.run import evaluate
from tests.evaluate import tiny

NUMBERS = count(1)


def texture(seed: int, size: int = 96) -> Image.Image:
    """A picture with something at every scale, as photos have."""
    draw, whole = np.random.default_rng(seed), np.zeros((size, size, 3))
    for cells in (4, 8, 16, 32):
        coarse = Image.fromarray(draw.integers(0, 256, (cells, cells, 3), np.uint8))
        whole += np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), float) / 4
    return Image.fromarray(whole.astype(np.uint8))


def row(path: Path, question: str = "what ?", **fields: str) -> Row:
    return tiny.row(next(NUMBERS), question, "a", ImageRef(str(path), path=path), **fields)


def saved(folder: Path, name: str, image: Image.Image, **how: object) -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    image.save(path, **how)
    return path


def test_each_kind_of_leak_is_found_once_by_its_surest_sign(tmp_path: Path) -> None:
    train = [saved(tmp_path, f"train/{n}.png", texture(n)) for n in range(8)]
    (tmp_path / "copy.png").write_bytes(train[1].read_bytes())
    half = texture(3).resize((48, 48), Image.Resampling.BICUBIC)
    tenth = texture(4).crop((5, 5, 91, 91))
    asked = [
        row(train[0]), row(train[0], "how many ?"), row(tmp_path / "copy.png"),
        row(saved(tmp_path, "again.png", texture(2), compress_level=1)),
        row(saved(tmp_path, "half.jpg", half, quality=40)),
        row(saved(tmp_path, "cut.png", tenth), image_id="4"),
        row(saved(tmp_path, "COCO_val2014_000000000042.jpg", texture(90))),
        row(saved(tmp_path, "new.png", texture(91)), image_id="5"),
    ]  # fmt: skip
    coco = saved(tmp_path, "000000000042.jpg", texture(92))
    trained = [row(path, image_id=str(n)) for n, path in enumerate(train)] + [row(coco)]
    leaks = find_leaks(trained, asked)
    assert [leak.kind for leak in leaks.found] == [
        "same file", "same bytes", "same pixels", "near duplicate", "same number", "same number",
    ]  # fmt: skip
    assert [Path(leak.training.ref.key).name for leak in leaks.found] == [
        "0.png", "1.png", "2.png", "3.png", "4.png", coco.name,
    ]  # fmt: skip
    assert leaks.facts["found"] == 6 and leaks.facts["questions"] == 7
    assert leaks.facts["kinds"] == {
        "same file": 1, "same bytes": 1, "same pixels": 1, "near duplicate": 1, "same number": 2,
    }  # fmt: skip
    near = leaks.facts["listed"][3]
    assert near["bits"] <= 60 and near["evaluation"]["row"] == str(asked[4].where)
    assert near["training"] == {"row": str(trained[3].where), "image": str(train[3])}


def test_other_pictures_of_equal_numbers_are_no_leak(tmp_path: Path) -> None:
    trained = [row(saved(tmp_path, f"train/{n}.png", texture(n)), image_id=str(n)) for n in range(30)]
    asked = [row(saved(tmp_path, f"test/{n}.png", texture(100 + n)), image_id=str(n)) for n in range(30)]
    assert find_leaks(trained, asked).found == ()


def test_drawings_that_look_alike_are_no_leak_unless_their_pixels_are_equal() -> None:
    easy_vqa = pytest.importorskip("easy_vqa", reason="easy-VQA is not installed")
    train, test = easy_vqa.get_train_image_paths(), easy_vqa.get_test_image_paths()
    trained = [row(Path(train[n])) for n in range(300)]
    asked = [row(Path(test[n])) for n in range(300)]
    seen = find_leaks(trained, asked)
    assert seen.facts["found"] == 0 and seen.facts["flat"] == 600
    assert find_leaks([*trained, asked[7]], asked).facts["found"] == 1


def test_pictures_of_one_colour_tell_nothing(tmp_path: Path) -> None:
    trained, asked = (row(saved(tmp_path, name, Image.new("RGB", (9, 9), "white"))) for name in ("a.png", "b.png"))
    assert find_leaks([trained], [asked]).found == ()


def test_the_nearest_of_many_is_found_as_by_comparing_them_all(tmp_path: Path) -> None:
    trained = [row(saved(tmp_path, f"train/{n}.png", texture(n))) for n in range(40)]
    asked = [row(saved(tmp_path, f"test/{n}.jpg", texture(n), quality=60)) for n in range(0, 40, 3)]
    found = find_leaks(trained, asked).found
    assert [Path(leak.training.ref.key).stem for leak in found] == [str(n) for n in range(0, 40, 3)]


def test_an_evaluation_says_it_loudly_and_what_the_score_is_without(tmp_path: Path) -> None:
    rows = tiny.questions(tiny.pictures(tmp_path))
    shown = [saved(tmp_path, f"{n}.png", texture(n, 16)) for n in range(len(rows))]
    asked = [
        tiny.row(n, each.question, each.answer, ImageRef(str(shown[n]), path=shown[n])) for n, each in enumerate(rows)
    ]
    built = tiny.model(asked)
    seen = evaluate(tiny.recipe(), built, asked, asked[:2], tmp_path, limit=10)
    leaks = seen["leaks"]
    assert (leaks["found"], leaks["evaluation_images"], leaks["partial"]) == (2, 10, True)
    assert 0 <= leaks["accuracy_without"]["accuracy"] <= 1
    lines = (tmp_path / "leaks.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["same file"] * 2
    assert any("LEAK: 2 of 10 evaluation images were also trained on (2 same file)" in line for line in describe(seen))
    again = evaluate(tiny.recipe(), built, asked[5:], asked[:2], tmp_path)
    assert again["leaks"]["found"] == 0 and not (tmp_path / "leaks.jsonl").exists()
    assert any("leaks: none found, 8 compared with 2 training images" in line for line in describe(again))
    assert "leaks" not in evaluate(tiny.recipe(leaks=False), built, asked, asked, tmp_path)
