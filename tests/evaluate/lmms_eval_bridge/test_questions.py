from __future__ import annotations

import math
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from sightline.data.images import load_image
from sightline.data.row import Picture, Turn, Where
from sightline.errors import UserError
from sightline.evaluate.answer import Answerer
from sightline.evaluate.lmms_eval_bridge.questions import Bridge, Question, image_ref, row_of
from sightline.models.build import Built
from tests.evaluate import tiny

HERE = Where("task test", 1)
RED, BLUE = Image.new("RGB", (16, 16), "red"), Image.new("RGBA", (16, 16), "blue")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return tiny.model(tiny.questions(tiny.pictures(tmp_path_factory.mktemp("pictures"))))


@pytest.mark.parametrize(
    ("context", "visuals", "parts"),
    [
        ("is it red ?", [RED], (Picture(), "is it red ?")),
        ("a <image> b", [RED], ("a ", Picture(), " b")),
        ("<image><image>", [RED, BLUE], (Picture(), Picture())),
        ("<image> or ?", [RED, BLUE], (Picture(), Picture(), "<image> or ?")),  # marks that do not fit are words
        ("no picture", [], ("no picture",)),
    ],
)
def test_pictures_stand_at_their_marks_or_in_front(context: str, visuals: list[Any], parts: tuple[Any, ...]) -> None:
    row = row_of(context, visuals, HERE)
    assert (row.turns[0].parts, len(row.images)) == (parts, len(visuals))


def test_pictures_in_memory_lose_nothing_and_are_known_again(tmp_path: Path) -> None:
    first, again, other = (image_ref(image, HERE) for image in (RED, RED.copy(), BLUE))
    assert first.key == again.key != other.key
    assert load_image(first, HERE).tobytes() == RED.tobytes()
    RED.save(tmp_path / "red.png")
    assert load_image(image_ref(str(tmp_path / "red.png"), HERE), HERE).tobytes() == RED.tobytes()


@pytest.mark.parametrize("visual", ["film.mp4", 3])
def test_what_is_no_picture_is_refused(visual: Any) -> None:
    with pytest.raises(UserError, match="no picture"):
        image_ref(visual, HERE)


@pytest.mark.slow
def test_answers_are_those_of_an_evaluation(built: Built) -> None:
    rows = [row_of(text, [image], HERE) for text in ("is it red ?", "what color ?") for image in (RED, BLUE)]
    asked = [Question(row, {"max_new_tokens": 1 + place % 3}) for place, row in enumerate(rows)]
    found = Bridge(built, batch=2).answers(asked)
    for question, answer in zip(asked, found, strict=True):
        assert Answerer(built, batch=1, max_new_tokens=question.max_new_tokens)([question.row]) == [answer]


def test_answers_end_where_the_task_says() -> None:
    row = row_of("?", [], HERE)
    assert Question(row, {"until": ["\n\n", ".", ""]}).cut("yes. no") == "yes"
    assert Question(row, {"until": "B"}).cut("A or B") == "A or "
    assert Question(row, {}).cut("yes. no") == "yes. no"


def test_likelihoods_are_those_of_the_tokens_one_by_one(built: Built) -> None:
    rows = [row_of("is it red ?", [RED], HERE), row_of("what color is the picture ?", [BLUE], HERE)] * 2
    texts = ["yes", "red green", " blue ", "no"]
    found = Bridge(built, batch=3).likelihoods(rows, texts)
    for row, text, (log_p, greedy) in zip(rows, texts, found, strict=True):
        example = built.encoder.encode(replace(row, turns=(*row.turns, Turn("assistant", (text.strip(),)))))
        prompt = len(built.encoder.encode_prompt(row))
        tokens = built.encoder.tokenizer(text.strip(), add_special_tokens=False)["input_ids"]
        assert list(example.input_ids[prompt : prompt + len(tokens)]) == tokens
        (alone,) = Bridge(built, batch=1).likelihoods([row], [text])
        assert alone[0] == pytest.approx(log_p, abs=1e-5)
        assert log_p < 0 and math.exp(log_p) <= 1
        said = Answerer(built, batch=1, max_new_tokens=len(tokens))([row])[0]
        assert greedy == (said == built.encoder.decode(tokens).strip())


def test_choices_of_one_word_share_less_than_everything(built: Built) -> None:
    words = list(tiny.COLORS)
    found = Bridge(built, batch=8).likelihoods([row_of("what color is it ?", [RED], HERE)] * len(words), words)
    assert 0 < torch.tensor([log_p for log_p, _ in found]).exp().sum() < 1


@pytest.mark.parametrize("settings", [{"do_sample": True, "temperature": 0.7}, {"num_beams": 4}])
def test_what_is_not_greedy_is_refused(settings: dict[str, Any], built: Built) -> None:
    with pytest.raises(UserError, match="greedy"):
        Bridge(built, batch=1).answers([Question(row_of("?", [RED], HERE), settings)])


def test_the_entry_point_is_declared() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["lmms_eval.models"] == {"sightline": "sightline.evaluate.lmms_eval_bridge:manifest"}
