from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torchmetrics.functional.classification import binary_accuracy, binary_f1_score, binary_precision, binary_recall

from sightline.errors import UserError
from sightline.evaluate.pope import FIGURES, RULES, Asked, figures, score_pope


@pytest.mark.parametrize(
    ("answer", "official", "exact"),
    [
        *[("yes", "yes", "yes"), ("No", "no", "no"), (" YES\n", "yes", "yes"), ("No, there is a cat", "no", None)],
        ("There is not a cat.", "no", None),
        ("Yes. There is no dog.", "yes", None),  # the first sentence alone
        ("NO", "yes", "no"),  # official knows "no" and "No"
        ("nothing", "yes", None),
        ("I cannot tell", "yes", None),
        ("", "yes", None),
    ],
)
def test_readings(answer: str, official: str, exact: str | None) -> None:
    assert (RULES["official"](answer), RULES["lmms-eval"](answer)) == (official, exact)


def test_figures_are_those_of_torchmetrics() -> None:
    draw = random.Random(0)
    asked = [Asked(draw.choice(["yes", "no"]), draw.choice(["yes", "yes", "no"]), "all", n) for n in range(300)]
    found = figures(asked)
    said = torch.tensor([each.answer == "yes" for each in asked]).int()
    label = torch.tensor([each.label == "yes" for each in asked]).int()
    theirs = [score(said, label) for score in (binary_accuracy, binary_precision, binary_recall, binary_f1_score)]
    assert [found[name] for name in FIGURES] == pytest.approx([*map(float, theirs), float(said.float().mean())])
    for name in FIGURES:
        low, high = found["intervals"][name]
        assert low < found[name] < high


def test_yes_to_everything() -> None:
    found = figures([Asked(label, "Yes", "all", n) for n, label in enumerate(["yes", "no"] * 50)])
    assert [found[name] for name in FIGURES] == pytest.approx([0.5, 0.5, 1.0, 2 / 3, 1.0])


def test_what_is_not_defined_is_none() -> None:
    found = figures([Asked("no", "no", "all", n) for n in range(3)])
    assert [found[name] for name in FIGURES] == [1.0, None, None, None, 0.0]
    assert found["intervals"]["precision"] is None


def _files(folder: Path) -> tuple[list[Path], list[Path]]:
    labels, answers = [], []
    for category in ("random", "adversarial"):
        asked = [
            {"question_id": n, "image": f"{n // 2}.jpg", "text": "Is there a cat?", "label": ["yes", "no"][n % 2]}
            for n in range(1, 7)
        ]
        given = [
            {"question_id": n, "answer": "No." if n < 3 and category == "random" else "Yes."} for n in range(6, 0, -1)
        ]
        for name, records, files in (("pope", asked, labels), ("answers", given, answers)):
            path = folder / f"coco_{name}_{category}.json"
            path.write_text(
                "\n".join(map(json.dumps, records)) + "\n", encoding="utf-8"
            )  # JSON lines, as POPE has them
            files.append(path)
    return labels, answers


def test_categories_are_told_by_the_names_of_files(tmp_path: Path) -> None:
    found = score_pope(*_files(tmp_path))
    assert list(found["by_category"]) == ["random", "adversarial"]
    assert found["by_category"]["random"]["accuracy"] == pytest.approx(3 / 6)
    assert found["by_category"]["random"]["yes_ratio"] == pytest.approx(4 / 6)
    assert (found["questions"], found["yes_ratio"], found["rule"]) == (12, pytest.approx(10 / 12), "official")


def test_a_field_tells_the_category_and_order_the_question() -> None:
    asked = [{"text": "?", "label": "no", "category": "popular"}, {"text": "?", "label": "yes", "category": "random"}]
    found = score_pope([asked], [[{"answer": "no"}, {"answer": "no"}]])
    assert {name: each["accuracy"] for name, each in found["by_category"].items()} == {"random": 0.0, "popular": 1.0}


ASKED = [{"question_id": 1, "label": "yes"}, {"question_id": 2, "label": "no"}]
GIVEN = [{"question_id": 1, "answer": "yes"}, {"question_id": 2, "answer": "no"}]
BAD: dict[str, tuple[Any, Any, str]] = {
    "too few": (ASKED, GIVEN[:1], "1 predictions are for 2 questions"),
    "others": (ASKED, [{**GIVEN[0]}, {"question_id": 3, "answer": ""}], "1 questions have no prediction .the first: 2"),
    "twice": (ASKED, [GIVEN[0], GIVEN[0]], "more than one prediction"),
    "asked twice": ([ASKED[0], ASKED[0]], GIVEN, "stands there more than once"),
    "no label": ([{"question_id": 1}], GIVEN[:1], "not yes or no"),
    "no text": (ASKED[:1], [{"question_id": 1, "answer": 1}], "has 1 for its answer"),
    "empty": ([], [], "no records"),
    "no objects": (ASKED, ["yes", "no"], "not an object"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_told(name: str) -> None:
    annotations, predictions, told = BAD[name]
    with pytest.raises(UserError, match=told):
        score_pope([annotations], [predictions])


def test_files_come_in_pairs() -> None:
    with pytest.raises(UserError, match="1 files of predictions are for 2 files"):
        score_pope([ASKED, ASKED], [GIVEN])
