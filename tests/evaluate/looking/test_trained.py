"""Real small models, one that can learn from its images and one whose training images were exchanged."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sightline.recipe.read import load, validate
from sightline.recipe.schema import DataSpec
from sightline.train.run import train
from tests.evaluate.tiny import MODEL

COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 70, 220), "yellow": (225, 215, 50)}


def drawn(folder: Path, name: str, count: int, *, exchanged: bool = False) -> Path:
    """A table of two questions about each picture: a noisy one, mostly of one colour."""
    draw, lines = np.random.default_rng(len(name)), []
    for number in range(count):
        colour = tuple(COLOURS)[number % 4]
        pixels = np.array(COLOURS[colour]) + draw.normal(0, 40, (16, 16, 3))
        file = f"{name}-{number}.png"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / file)
        said = colour if number % 8 < 4 else tuple(COLOURS)[(number + 1 + number // 8 % 3) % 4]
        lines.append({"image": file, "question": "what color ?", "answer": colour, "kind": "color"})
        answer = "yes" if said == colour else "no"
        lines.append({"image": file, "question": f"is it {said} ?", "answer": answer, "kind": "yes or no"})
    if exchanged:
        files = [line["image"] for line in lines]
        random.Random(0).shuffle(files)
        for line, file in zip(lines, files, strict=True):
            line["image"] = file
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module", params=[False, True], ids=["looks", "cannot look"])
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[bool, dict[str, Any]]:
    """Whether the training images were exchanged, and what the evaluation says."""
    folder = tmp_path_factory.mktemp("colours")
    data = {
        name: {"reader": "table", "path": str(drawn(folder, name, count, exchanged=name == "train" and request.param))}
        for name, count in (("train", 320), ("test", 96))
    }
    learn = {"vision": "all", "connector": "all", "language": "all"}
    stage = {"name": "see", "data": {"train": 1}, "learn": learn, "lr": 4e-3, "epochs": 10, "batch": 64}
    recipe = validate(
        {
            "name": "colours", "summary": "noisy colours", "model": MODEL, "data": data, "stages": [stage],
            "evaluate": {"data": "test", "group_by": "kind", "max_new_tokens": 3},
            "guard": {"on": False}, "device": "cpu", "precision": "fp32",
        },
        where="colours",
    )  # fmt: skip
    run = train(recipe, folder / "run")
    return request.param, json.loads((run / "evaluation.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_verdict_tells_them_apart(seen: tuple[bool, dict[str, Any]]) -> None:
    exchanged, evaluation = seen
    looking = evaluation["looking"]
    assert looking["verdict"]["says"] == ("does not look" if exchanged else "looks")
    low, high = looking["conditions"]["shuffled"]["difference_interval"]
    assert (low, high) == (0.0, 0.0) if exchanged else low > 0.2


@pytest.mark.slow
def test_pairs_that_flip_the_answer_tell_them_apart(seen: tuple[bool, dict[str, Any]]) -> None:
    exchanged, evaluation = seen
    pairs = evaluation["looking"]["counterfactual"]
    assert pairs["pairs"] > 50 and evaluation["leaks"]["found"] == 0
    if exchanged:
        assert (pairs["both_right"], pairs["same_answer"]) == (0.0, 1.0)
    else:
        assert pairs["both_right"] > 0.4 > pairs["both_right_when"]["shuffled"] + 0.2


def test_each_type_of_question_has_a_verdict_of_its_own(seen: tuple[bool, dict[str, Any]]) -> None:
    exchanged, evaluation = seen
    says = {name: group["looking"]["verdict"]["says"] for name, group in evaluation["by_group"].items()}
    assert says["color"] != "looks" if exchanged else says["color"] == "looks"
    assert says["yes or no"] != "looks"  # so small a model finds the color and never learns to compare it
    shuffled = evaluation["by_group"]["color"]["looking"]["shuffled"]
    assert shuffled == pytest.approx(evaluation["by_group"]["color"]["shuffled"]) and shuffled < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("exchanged", [False, True], ids=["looks", "cannot look"])
def test_on_easy_vqa_too(exchanged: bool, tmp_path: Path) -> None:
    easy_vqa = pytest.importorskip("easy_vqa", reason="easy-VQA is not installed")
    questions, answers, images = easy_vqa.get_train_questions()
    paths = easy_vqa.get_train_image_paths()
    chosen = [place for place, image in enumerate(images) if image < 2000 and questions[place].startswith("what")]
    shown = [images[place] for place in chosen]
    if exchanged:
        random.Random(0).shuffle(shown)
    lines = [
        {"image": str(Path(paths[image]).resolve()), "question": questions[place], "answer": answers[place]}
        for place, image in zip(chosen, shown, strict=True)
    ]
    table = tmp_path / "train.jsonl"
    table.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    quickstart = load("quickstart")
    data = {
        "train": DataSpec(reader="table", path=str(table)),
        "test": DataSpec(reader="easy-vqa", split="test", where={"type": ["color", "shape"]}),
    }
    change = {"data": {"train": 1.0}, "epochs": 10.0, "validation": None, "validate_every": None}
    changes = {
        "data": data,
        "stages": (quickstart.stages[0].model_copy(update=change),),
        "evaluate": quickstart.evaluate.model_copy(update={"validation": None}),
    }
    run = train(quickstart.model_copy(update=changes), tmp_path / "run")
    evaluation = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    assert evaluation["looking"]["verdict"]["says"] == ("does not look" if exchanged else "looks")
