from __future__ import annotations

import random
from typing import Any

import pytest

from sightline.evaluate.vqa import RULES
from tests.evaluate.vqa import plain


def entries(answers: list[str]) -> list[dict[str, Any]]:
    return [
        {"answer": answer, "answer_confidence": "yes", "answer_id": number} for number, answer in enumerate(answers, 1)
    ]


# answers, prediction, per cent by the official rule, LAVIS and lmms-eval: what their own code gives
TABLE = [
    (["black"] * 10, "Black.", 0, 100, 100),
    (["yes"] * 10, "yes!", 0, 100, 100),
    (["none"] + ["2"] * 9, "none", 30, 0, 30),
    (["the cat"] * 10, "the cat", 100, 0, 100),
    (["the cat"] * 4 + ["dog"] * 6, "cat", 100, 0, 100),
    (["2"] * 3 + ["two"] * 7, "two", 100, 90, 100),
    (["1,000"] * 10, "1,000", 100, 0, 100),
    (["cat"] * 1 + ["dog"] * 9, "cat", 30, 30, 30),
    (["cat"] * 2 + ["dog"] * 8, "cat", 60, 60, 60),
    (["cat"] * 3 + ["dog"] * 7, "cat", 90, 90, 90),
    (["cat"] * 4 + ["dog"] * 6, "cat", 100, 100, 100),
    (["cat"] * 10, "cat\n", 100, 100, 100),
    (["cat\n"] * 10, "cat", 100, 0, 100),  # LAVIS does not tidy what people wrote
    (["cat"] * 9 + ["cat\t"], "Cat", 0, 100, 100),  # tidied, all agree
]


@pytest.mark.parametrize(("answers", "prediction", "official", "lavis", "lmms"), TABLE)
def test_published_rules(answers: list[str], prediction: str, official: int, lavis: int, lmms: int) -> None:
    found = [round(100 * RULES[name](prediction, answers), 2) for name in ("official", "lavis", "lmms-eval")]
    assert found == [official, lavis, lmms]


WORDS = """yes Yes YES no cat cats dog the a An none two 2 ten 10 1,000 1,,000 1000 3.5 .5 5. U.S. dont don't it's
t-shirt t/shirt (red) red! red? red; 'ow'sat y'allll somebody'd \u00e9t\u00e9 \u00c9T\u00c9 \u0130 \u00df"""
BETWEEN = ["-", ",", "...", ". ", " ", "\n", "\t", "\r\n", "\u00a0", "\u2028", "." * 35, "{", "\\", "`", ""]
PIECES = WORDS.split() + BETWEEN


def _invented(draw: random.Random) -> tuple[str, list[dict[str, Any]]]:
    pool = ["".join(draw.choices(PIECES, k=draw.choice([1, 1, 2, 3]))) for _ in range(draw.randint(1, 4))]
    pool += [" ".join(draw.choices(PIECES, k=2))]
    people = entries(draw.choices(pool, k=draw.choice([10, 10, 10, 1, 2, 3, 4, 5, 12])))
    return draw.choice([*pool, "", "yes"]), people


@pytest.mark.parametrize("name", RULES)
def test_equal_to_the_plain_way_to_the_last_bit(name: str) -> None:
    draw = random.Random(7)
    for _ in range(1500):
        prediction, people = _invented(draw)
        answers = [entry["answer"] for entry in people]
        assert RULES[name](prediction, answers) == plain.accuracy(name, prediction, people), (prediction, answers)


@pytest.mark.parametrize("name", RULES)
def test_equal_entries_are_left_out_together(name: str) -> None:
    draw = random.Random(8)
    for _ in range(700):
        prediction, people = _invented(draw)
        for entry in people:
            del entry["answer_id"]
            entry["answer_confidence"] = draw.choice(["yes", "maybe"])
        answers = [entry["answer"] for entry in people]
        beside = [entry["answer_confidence"] for entry in people]
        assert RULES[name](prediction, answers, beside) == plain.accuracy(name, prediction, people)


def test_ten_who_agree_and_are_not_told_apart_make_nothing_right() -> None:
    assert RULES["official"]("yes", ["yes"] * 10) == 1
    assert RULES["official"]("yes", ["yes"] * 10, [None] * 10) == 0


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(("people", "best"), [(1, 0.0), (2, 1 / 3), (3, 2 / 3), (4, 1.0), (13, 1.0)])
def test_fewer_than_four_people_cannot_make_an_answer_right(name: str, people: int, best: float) -> None:
    assert RULES[name]("cat", ["cat"] * people) == pytest.approx(best)
