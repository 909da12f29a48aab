"""The official code's own figures on real questions and answers, for four predictors, to the last digit."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from sightline.evaluate.vqa import score_vqa
from tests.evaluate.vqa import plain

SHARED = Path(__file__).parents[4] / "shared" / "data" / "vqav2_text"
PREDICTORS = ("constant yes", "multiple_choice_answer", "annotator 1", "messy annotator 4")
QUESTIONS, ANNOTATIONS = SHARED / "vqa_questions_valid.gzip", SHARED / "vqa_annotatons_valid.gzip"

pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real data at {SHARED}")


@pytest.fixture(scope="module")
def scored() -> dict[str, Any]:
    with gzip.open(SHARED / "official_scores_valid.json.gz") as file:
        return json.load(file)


def test_these_are_all_predictors(scored: dict[str, Any]) -> None:
    assert set(scored) == set(PREDICTORS)


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_figures_are_the_official_ones(predictor: str, scored: dict[str, Any]) -> None:
    theirs = scored[predictor]
    ours = score_vqa(QUESTIONS, ANNOTATIONS, theirs["predictions"])
    assert ours.overall == theirs["official"]["overall"]
    assert ours.per_answer_type == theirs["official"]["perAnswerType"]
    assert ours.per_question_type == theirs["official"]["perQuestionType"]
    assert {str(question): mark for question, mark in ours.per_question.items()} == theirs["official_per_question"]
    low, high = ours.interval() or (100, 0)
    assert low < ours.overall < high


@pytest.mark.parametrize("rule", ["lavis", "lmms-eval"])
def test_other_rules_are_the_plain_way_on_real_answers(rule: str, scored: dict[str, Any]) -> None:
    given = scored["messy annotator 4"]["predictions"][:1500]
    with gzip.open(ANNOTATIONS) as file:
        records = {record["question_id"]: record for record in json.load(file)["annotations"]}
    kept = [records[each["question_id"]] for each in given]
    ours = score_vqa(None, kept, given, rule=rule)
    marks = [plain.accuracy(rule, each["answer"], record["answers"]) for each, record in zip(given, kept, strict=True)]
    assert ours.marks == marks
