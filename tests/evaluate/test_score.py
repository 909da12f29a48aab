from __future__ import annotations

import math

import pytest

from sightline.evaluate.score import Z95, exact_match, normalise, wilson


@pytest.mark.parametrize(
    ("answer", "truth"),
    [
        ("Yes.", "yes"),
        ("  a  red   circle ", "A red circle"),
        ("it's", "its"),
        ("1,000", "1000"),
        ("yes,no", "yes no"),
        ("\uff21\uff22", "ab"),  # full-width letters
        ("(3)", "3"),
        ('"blue"', "blue!"),
    ],
)
def test_same_answer_written_differently(answer: str, truth: str) -> None:
    assert exact_match(answer, truth)


@pytest.mark.parametrize(
    ("answer", "truth"),
    [("yes", "no"), ("-3", "3"), ("3.5", "35"), ("1/2", "12"), ("10:30", "1030"), ("", "yes"), ("!", "?"), ("?", "")],
)
def test_different_answers_stay_different(answer: str, truth: str) -> None:
    assert not exact_match(answer, truth)


@pytest.mark.parametrize("answer", ["Yes.", "-3.5", "It\u2019s 1,000!", "...", "", "a/b 1/2", "U.S."])
def test_normalising_twice_changes_nothing(answer: str) -> None:
    assert normalise(normalise(answer)) == normalise(answer)


@pytest.mark.parametrize(("correct", "total"), [(1, 2), (7, 10), (981, 1000), (3, 9673)])
def test_wilson_ends_are_where_the_score_test_turns(correct: int, total: int) -> None:
    # The interval's definition: the proportions p with |share - p| = z * sqrt(p (1 - p) / n).
    share = correct / total
    low, high = wilson(correct, total)
    assert low < share < high
    for end in (low, high):
        assert abs(share - end) == pytest.approx(Z95 * math.sqrt(end * (1 - end) / total), rel=1e-9)


def test_wilson_at_the_ends() -> None:
    # All or none of n: z^2 / (n + z^2) on the open side, in closed form.
    assert wilson(0, 20) == (0.0, pytest.approx(Z95**2 / (20 + Z95**2)))
    assert wilson(20, 20) == (pytest.approx(20 / (20 + Z95**2)), 1.0)


@pytest.mark.parametrize(("correct", "total"), [(0, 0), (-1, 3), (4, 3)])
def test_wilson_refuses_what_is_no_proportion(correct: int, total: int) -> None:
    with pytest.raises(ValueError, match="no proportion"):
        wilson(correct, total)
