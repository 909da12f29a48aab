from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sightline.data.pack import pack
from sightline.data.row import Picture, Row, Turn, Where
from sightline.errors import UserError
from sightline.evaluate.answer import Answerer
from sightline.evaluate.features import ImageFeatures
from sightline.models.build import Built
from tests.evaluate import tiny


def one_by_one(built: Built, rows: list[Row], tokens: int) -> list[str]:
    """The reference: each row alone, with its pixels."""
    built.model.eval()
    answers = []
    for row in rows:
        example = built.encoder.encode_prompt(row)
        batch = built.encoder.collate(pack([example], "none", len(example)), pad_left=True)
        answers.append(built.encoder.decode(built.model.generate(batch, tokens)[0]))
    return answers


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    refs = tiny.pictures(tmp_path)
    turns = (
        Turn("user", (Picture(), "is it red ?")),
        Turn("assistant", ("no",)),
        Turn("user", ("what color is the whole picture ?",)),
        Turn("assistant", ("blue",)),
    )
    return [
        *tiny.questions(refs),
        tiny.row(20, "is the whole picture red ?", "no"),  # no image
        tiny.row(21, "what color is it ?", "red", refs[0], refs[3]),  # two images
        Row(Where("test.json", 22), turns, (refs[2],)),  # several turns
    ]


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_answers_are_those_of_each_row_alone(rows: list[Row], batch: int) -> None:
    built = tiny.model(rows)
    expected = one_by_one(built, rows, 3)
    assert Answerer(built, batch=batch, max_new_tokens=3)(rows) == expected
    assert len(set(expected)) > 1  # a model that says one thing only would prove nothing


def test_a_small_feature_budget_changes_no_answer(rows: list[Row], monkeypatch: pytest.MonkeyPatch) -> None:
    built = tiny.model(rows)
    expected = Answerer(built, batch=4, max_new_tokens=3)(rows)
    answerer = Answerer(built, batch=4, max_new_tokens=3)
    one_image = 4 * 16 * 4  # patches x width x fp32
    answerer._features = ImageFeatures(answerer._collate, built.model.encode_images, 4, budget=2 * one_image)
    assert answerer(rows) == expected
    assert len(answerer._features._kept) <= 2


def test_each_image_is_encoded_once_over_two_passes(rows: list[Row], monkeypatch: pytest.MonkeyPatch) -> None:
    built = tiny.model(rows)
    encoded = []
    real = built.model.encode_images
    monkeypatch.setattr(built.model, "encode_images", lambda pixels: (encoded.append(len(pixels)), real(pixels))[1])
    answerer = Answerer(built, batch=4, max_new_tokens=2)
    first = answerer(rows)
    assert answerer(rows) == first
    assert sum(encoded) == len(tiny.COLORS)


def test_the_same_question_of_the_same_image_is_answered_once(rows: list[Row], monkeypatch: pytest.MonkeyPatch) -> None:
    built = tiny.model(rows)
    asked = []
    real = built.model.say
    monkeypatch.setattr(built.model, "say", lambda b, n: (asked.append(len(b.input_ids)), real(b, n))[1])
    told: list[int] = []
    answers = Answerer(built, batch=4, max_new_tokens=2)(rows, told.append)
    assert sum(asked) == len(rows) - 1
    assert answers[1] == answers[12]  # rows 2 and 13 ask the same
    assert sum(told) == len(rows)


def test_the_model_is_left_as_it_was(rows: list[Row]) -> None:
    built = tiny.model(rows)
    built.model.train()
    built.model.tower_modules("vision")[0][1].eval()
    modes = [module.training for module in built.model.modules()]
    state = {name: value.clone() for name, value in built.model.state_dict().items()}
    before = torch.get_rng_state()
    Answerer(built, batch=4, max_new_tokens=2, precision="bf16")(rows)
    assert [module.training for module in built.model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in built.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.is_inference_mode_enabled() and not torch.is_autocast_enabled("cpu")


def test_the_mode_comes_back_after_an_error(rows: list[Row], monkeypatch: pytest.MonkeyPatch) -> None:
    built = tiny.model(rows)
    built.model.train()
    monkeypatch.setattr(built.model, "say", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Answerer(built, batch=4, max_new_tokens=2)(rows)
    assert built.model.training


def test_what_is_written_has_the_probability_of_all_its_tokens(rows: list[Row]) -> None:
    """Against the probabilities of the same tokens given as labels, each row alone."""
    built = tiny.model(rows)
    told = Answerer(built, batch=3, max_new_tokens=4).confident(rows)
    assert [answer for answer, _ in told] == Answerer(built, batch=64, max_new_tokens=4)(rows)
    built.model.eval()
    compared = 0
    for row, (_, chance) in zip(rows, told, strict=True):
        prompt = built.encoder.encode_prompt(row)
        (said,) = built.model.say(built.encoder.collate(pack([prompt], "none", 512), pad_left=True), 4)
        tokens = (*said.tokens, built.encoder.eos_id)[:4]  # an answer of four tokens was cut off before its end
        assert chance == pytest.approx(math.exp(said.log_p), rel=1e-4)
        if built.encoder.image_token_id in tokens:  # an untrained model says anything
            continue
        compared += 1
        ids = (*prompt.input_ids, *tokens)
        whole = replace(prompt, input_ids=ids, labels=(*prompt.labels, *tokens))
        with torch.no_grad():
            logits, targets = built.model(built.encoder.collate(pack([whole], "none", 512)))
        log_p = float(logits.log_softmax(-1).gather(1, targets[:, None]).sum())
        assert said.log_p == pytest.approx(log_p, rel=1e-4)
    assert compared > 5


def test_a_model_that_writes_has_no_scores_of_a_vocabulary(rows: list[Row]) -> None:
    with pytest.raises(UserError, match="writes its answers"):
        Answerer(tiny.model(rows), batch=3, max_new_tokens=1).scores(rows)
