"""What a vocabulary can reach, by exact match and by a VQA rule, counted by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sightline.evaluate.baselines import by_exact_match
from sightline.evaluate.reach import within_reach
from sightline.evaluate.vqa import RULES
from tests.evaluate import tiny


def test_by_exact_match() -> None:
    rows = [tiny.row(n, "what ?", answer) for n, answer in enumerate(("Red.", "blue", "two", "mauve"), start=1)]
    found = within_reach(("red", "blue", "2"), rows, by_exact_match)
    assert found == {"answers": 3, "out_of_reach": 2, "ceiling": 0.5}  # "2" is not "two" to exact match


def test_by_what_people_answered() -> None:
    said = [("red",) * 2 + ("mauve",) * 8, ("red",) * 10, ("mauve",) * 10]
    rows = [replace(tiny.row(n, "what ?", people[0]), answers=people) for n, people in enumerate(said, start=1)]
    found = within_reach(("red", "blue"), rows, lambda given, row: RULES["official"](given, row.answers))
    assert (found["answers"], found["out_of_reach"]) == (2, 1)
    assert found["ceiling"] == pytest.approx((0.6 + 1 + 0) / 3)
