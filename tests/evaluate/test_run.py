from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sightline.commands.summary import describe
from sightline.data.row import Row
from sightline.errors import UserError
from sightline.evaluate.run import evaluate
from sightline.evaluate.score import exact_match
from sightline.models.build import Built
from tests.evaluate import tiny


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    return tiny.questions(tiny.pictures(tmp_path))


@pytest.fixture
def built(rows: list[Row]) -> Built:
    return tiny.model(rows)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_files_agree_with_each_other(tmp_path: Path, rows: list[Row], built: Built) -> None:
    out = tmp_path / "run"
    told: list[tuple[int, int]] = []
    seen = evaluate(tiny.recipe(group_by="type"), built, rows, rows, out, lambda *done: told.append(done))
    assert json.loads((out / "evaluation.json").read_text()) == seen
    said = lines(out / "predictions.jsonl")
    assert [line["where"] for line in said] == [str(row.where) for row in rows]
    assert all(line["correct"] == exact_match(line["answer"], line["truth"]) for line in said)
    assert seen["questions"] == len(rows) and seen["partial"] is False
    assert seen["accuracy"] == sum(line["correct"] for line in said) / len(rows)
    low, high = seen["interval"]
    assert low <= seen["accuracy"] <= high
    # Every image is looked at for leaks; then the rows are asked, and once more in each of four conditions.
    assert told[-1] == (len(tiny.COLORS) + 5 * len(rows),) * 2
    pictures = json.loads((out / "gallery.json").read_text())
    assert len(pictures) == len(rows)
    assert not [path for path in out.iterdir() if path.suffix == ".tmp"]


def test_groups_sum_to_the_whole(tmp_path: Path, rows: list[Row], built: Built) -> None:
    seen = evaluate(tiny.recipe(group_by="type"), built, rows, rows, tmp_path)
    groups = seen["by_group"]
    assert {name: group["questions"] for name, group in groups.items()} == {"color": 6, "yes/no": 7}

    def mean(key: str) -> float:
        return sum(group[key] * group["questions"] for group in groups.values()) / len(rows)

    assert mean("accuracy") == pytest.approx(seen["accuracy"])
    assert mean("text_only") == pytest.approx(seen["baselines"]["text_only"]["accuracy"])
    assert mean("shuffled") == pytest.approx(seen["baselines"]["shuffled_images"]["accuracy"])


def test_baselines_by_hand(tmp_path: Path, rows: list[Row], built: Built) -> None:
    train = [tiny.row(1, "is it red ?", "no"), tiny.row(2, "is it red ?", "no"), tiny.row(3, "new ?", "blue")]
    baselines = evaluate(tiny.recipe(), built, rows, train, tmp_path)["baselines"]
    # "no" is right for 5 of the 13 rows; of the color questions, which the training rows never ask, for none.
    assert baselines["majority"]["answer"] == "no"
    assert baselines["majority"]["accuracy"] == baselines["text_only"]["accuracy"] == 5 / 13
    assert baselines["text_only"]["unseen_questions"] == 6
    assert baselines["text_only"]["ceiling"] == (5 + 1) / 13


def test_a_model_that_looks_loses_by_other_images(tmp_path: Path, rows: list[Row], built: Built) -> None:
    # Whatever the model says of each picture is made the truth: then it is always right, and only by looking.
    out = tmp_path / "first"
    evaluate(tiny.recipe(), built, rows, rows, out)
    said = [line["answer"] for line in lines(out / "predictions.jsonl")]
    assert len(set(said)) > 2
    told = zip(rows, said, strict=True)
    looked = [tiny.row(i, row.question, answer, *row.images) for i, (row, answer) in enumerate(told)]
    seen = evaluate(tiny.recipe(), built, looked, looked, tmp_path / "second")
    assert seen["accuracy"] == 1.0
    assert seen["baselines"]["shuffled_images"]["accuracy"] < 1.0


def test_a_limit_makes_it_partial(tmp_path: Path, rows: list[Row], built: Built) -> None:
    seen = evaluate(tiny.recipe(), built, rows, rows, tmp_path, limit=5)
    assert seen["questions"] == 5 and seen["partial"] is True
    assert len(lines(tmp_path / "predictions.jsonl")) == 5


def test_a_limited_data_set_makes_it_partial(tmp_path: Path, rows: list[Row], built: Built) -> None:
    recipe = tiny.recipe()
    spec = recipe.data["test"].model_copy(update={"limit": len(rows)})
    limited = recipe.model_copy(update={"data": {"test": spec}})
    assert evaluate(limited, built, rows, rows, tmp_path)["partial"] is True


def test_baselines_that_cannot_be_measured_say_so(tmp_path: Path, rows: list[Row], built: Built) -> None:
    one_image = [row for row in rows if row.images == rows[0].images]
    seen = evaluate(tiny.recipe(group_by="type"), built, one_image, [], tmp_path)
    for baseline in seen["baselines"].values():
        assert baseline["accuracy"] is None
        assert "not measured" in baseline["description"]
    assert all(group["shuffled"] is group["text_only"] is None for group in seen["by_group"].values())


def test_baselines_that_were_not_asked_for_are_left_out(tmp_path: Path, rows: list[Row], built: Built) -> None:
    seen = evaluate(tiny.recipe(shuffled_images=False, text_only=False), built, rows, rows, tmp_path)
    assert set(seen["baselines"]) == {"majority"}


def test_without_a_metric_nothing_is_scored(tmp_path: Path, rows: list[Row], built: Built) -> None:
    seen = evaluate(tiny.recipe(metric="none"), built, rows, rows, tmp_path)
    assert "accuracy" not in seen and seen["questions"] == len(rows)
    assert all(line["correct"] is None for line in lines(tmp_path / "predictions.jsonl"))


def test_an_unknown_group_names_the_fields(tmp_path: Path, rows: list[Row], built: Built) -> None:
    with pytest.raises(UserError, match=r"evaluate.group_by: no row has a field 'kind'\n  fix: .*type"):
        evaluate(tiny.recipe(group_by="kind"), built, rows, rows, tmp_path)


def test_no_rows(tmp_path: Path, built: Built) -> None:
    with pytest.raises(UserError, match="nothing to evaluate"):
        evaluate(tiny.recipe(), built, [], [], tmp_path)


def test_how_sure_the_model_is_stands_beside_how_right(tmp_path: Path, rows: list[Row], built: Built) -> None:
    seen = evaluate(tiny.recipe(), built, rows, rows, tmp_path)
    said = lines(tmp_path / "predictions.jsonl")
    assert all(0 <= line["confidence"] <= 1 for line in said)
    told = seen["calibration"]
    assert told["answers"] == len(rows) and told["accuracy"] == pytest.approx(seen["accuracy"])
    assert told["confidence"] == pytest.approx(sum(line["confidence"] for line in said) / len(said))
    assert 0 <= told["ece"] <= 1 and len(told["interval"]) == 2
    assert any("calibration error (ECE)" in line for line in describe(seen))
    assert "vocabulary" not in seen
