from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from sightline.data.row import Row
from sightline.errors import UserError
from sightline.evaluate.bootstrap import interval
from sightline.evaluate.marks import accuracy, marks
from sightline.evaluate.run import evaluate
from sightline.evaluate.score import wilson
from sightline.recipe.schema import Evaluate
from tests.evaluate import tiny

PEOPLE = ("none", *["2"] * 9)  # "none" is 0.3 by the official rule; LAVIS cleans it to "0", which nobody said


def asked(*answers: str, question: str = "how many ?") -> Row:
    return replace(tiny.row(1, question, answers[-1] if answers else "x"), answers=answers)


@pytest.mark.parametrize(("rule", "mark"), [("official", 0.3), ("lavis", 0.0), ("lmms-eval", 0.3)])
def test_the_rule_that_is_named_gives_the_mark(rule: str, mark: float) -> None:
    settings = Evaluate(metric="vqa", rule=rule)  # type: ignore[arg-type]
    assert marks(settings, [asked(*PEOPLE)], ["none"]) == [pytest.approx(mark)]


def test_exact_match_knows_the_one_answer_to_learn_from() -> None:
    rows = [asked(*PEOPLE), asked(*PEOPLE)]
    assert marks(Evaluate(), rows, ["None.", "2"]) == [0.0, 1.0]


def test_the_interval_is_wilsons_for_right_and_wrong_and_the_bootstraps_for_marks_between() -> None:
    assert accuracy([1.0] * 9 + [0.0]) == {"accuracy": 0.9, "interval": list(wilson(9, 10))}
    soft = [1.0, 0.3, 0.6, 0.0] * 25
    assert accuracy(soft)["interval"] == list(interval(soft))
    assert accuracy(soft)["accuracy"] == pytest.approx(0.475)


@pytest.mark.parametrize("answers", [(), ("yes",)])
def test_a_vqa_rule_needs_several_people(answers: tuple[str, ...]) -> None:
    with pytest.raises(
        UserError, match=rf"test.json row 1: the row holds {len(answers)} answers.*\n  fix: .*exact-match"
    ):
        marks(Evaluate(metric="vqa"), [asked(*answers)], ["yes"])


def test_a_row_without_an_answer_cannot_be_marked() -> None:
    row = asked("yes", "yes")
    open_ = replace(row, turns=row.turns[:1], answers=())
    with pytest.raises(UserError, match=r"holds no answer.*\n  fix: set evaluate.metric: none"):
        marks(Evaluate(), [open_], ["yes"])


def test_a_rule_that_is_not_read_is_refused() -> None:
    with pytest.raises(ValidationError, match="'rule' is read by metric vqa alone"):
        Evaluate(rule="lavis")


def test_an_evaluation_by_vqas_rule_names_it_and_scores_its_baselines_by_it(tmp_path: Path) -> None:
    rows = tiny.questions(tiny.pictures(tmp_path))
    # Of ten people three say something else, so no single answer is worth more than 1, and the other is worth 0.9.
    rows = [replace(row, answers=(*[row.answer] * 7, *["odd"] * 3)) for row in rows]
    train = [tiny.row(1, "is it red ?", "odd")]
    seen = evaluate(tiny.recipe(metric="vqa", rule="lavis", group_by="type"), tiny.model(rows), rows, train, tmp_path)
    assert (seen["metric"], seen["rule"]) == ("vqa", "lavis")
    assert seen["baselines"]["majority"]["accuracy"] == pytest.approx(0.9)
    assert seen["baselines"]["text_only"]["ceiling"] > 0.9
    low, high = seen["interval"]
    assert 0 <= low <= seen["accuracy"] <= high <= 1
    assert {"accuracy", "difference", "difference_interval"} <= set(seen["looking"]["conditions"]["blind"])
