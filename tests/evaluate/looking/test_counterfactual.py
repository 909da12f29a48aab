from __future__ import annotations

from itertools import count

import pytest

from sightline.data.row import ImageRef, Row
from sightline.evaluate.baselines import by_exact_match
from sightline.evaluate.looking.counterfactual import find_pairs, told
from tests.evaluate import tiny

NUMBERS = count(1)


def row(question: str, answer: str, *images: str) -> Row:
    return tiny.row(next(NUMBERS), question, answer, *(ImageRef(image) for image in images))


def test_pairs_ask_the_same_of_two_images_that_need_different_answers() -> None:
    rows = [
        row("red?", "yes", "a"), row("Red", "no", "b"), row("blue?", "no", "a"), row("red?", "no", "c"),
        row("blue?", "no", "b"), row("round?", "yes", "a"), row("round?", "no", "a"), row("what?", "a cat"),
        row("what?", "a dog"),
    ]  # fmt: skip
    (pair,) = find_pairs(rows, by_exact_match, 0)
    assert pair in (
        (0, 1),
        (0, 3),
    )  # one "yes" only, so one pair; "blue" has one answer, "round" one image, "what" none


@pytest.mark.parametrize("seed", range(3))
def test_no_row_is_in_two_pairs_and_as_few_as_possible_are_left_over(seed: int) -> None:
    rows = [row("what?", answer, f"{answer} {n}") for answer, n in zip("aaaaabbbc", range(9), strict=True)]
    pairs = find_pairs(rows, by_exact_match, seed)
    places = [place for pair in pairs for place in pair]
    assert len(pairs) == 4 and len(set(places)) == 8  # five "a" meet three "b" and the "c"
    assert all(rows[one].answer != rows[two].answer for one, two in pairs)


def test_answers_that_people_accept_for_both_images_make_no_pair() -> None:
    rows = [row("what?", "cat", "a"), row("what?", "kitten", "b")]
    assert find_pairs(rows, lambda given, row: 0.9, 0) == []
    assert find_pairs(rows, lambda given, row: 0.3 + 0.7 * (given == row.answer), 0) == [(0, 1)]


def test_who_never_looks_gets_no_pair_right_and_who_does_gets_all() -> None:
    rows = [row("red?", ("yes", "no")[n % 2], f"{n}") for n in range(40)]
    pairs = find_pairs(rows, by_exact_match, 0)
    assert len(pairs) == 20
    blind = told(pairs, [float(row.answer == "yes") for row in rows], ["yes"] * 40)
    assert (blind["both_right"], blind["if_independent"], blind["same_answer"]) == (0.0, 0.25, 1.0)
    sees = told(pairs, [1.0] * 40, [row.answer for row in rows])
    assert (sees["both_right"], sees["if_independent"], sees["same_answer"]) == (1.0, 1.0, 0.0)
    assert sees["interval"][0] > 0.8


def test_a_soft_pair_counts_by_its_lesser_mark() -> None:
    assert told([(0, 1), (2, 3)], [1.0, 0.3, 0.6, 0.9], list("abcd"))["both_right"] == pytest.approx(0.45)


def test_the_same_words_after_another_turn_are_another_question() -> None:
    from dataclasses import replace

    from sightline.data.row import Turn

    one, two = row("sure?", "yes", "a"), row("sure?", "no", "b")
    assert len(find_pairs([one, two], by_exact_match, 0)) == 1
    talk = replace(one, turns=(Turn("user", ("is it red?",)), Turn("assistant", ("no",)), *one.turns))
    assert find_pairs([talk, two], by_exact_match, 0) == []
