"""Calibration and perplexity in the report: read, judged in words, and shown."""

from __future__ import annotations

from typing import Any

import pytest

from sightline.report.page import write_report
from sightline.report.read import read_run
from tests.report.fake_run import NO_RESULT, evaluation
from tests.report.test_page import matter

LOW, HIGH = 0.0123, 0.0456


def bins() -> list[dict[str, Any]]:
    empty = {"low": 0.5, "high": 0.75, "answers": 0, "confidence": None, "accuracy": None}
    full = {"low": 0.75, "high": 1.0, "answers": 90, "confidence": 0.93, "accuracy": 0.81}
    return [{"low": 0.0, "high": 0.5, "answers": 10, "confidence": 0.4, "accuracy": 0.3}, empty, full]


def calibrated(**changes: Any) -> dict[str, Any]:
    told = {"ece": 0.03, "interval": [LOW, HIGH], "expected_by_chance": 0.01, "confidence": 0.88, "accuracy": 0.76}
    return evaluation() | {"calibration": told | {"bins": bins()} | changes}


def perplexed(**changes: Any) -> dict[str, Any]:
    told = {"data": "test", "metric": "perplexity", "questions": 12, "partial": False, "unit": "rows", "tokens": 2400}
    told |= {"perplexity": 7.25, "nats": 1.981, "interval": [6.5, 8.125], "baselines": {"shuffled_images": {}}}
    told |= {"by_field": {"type": {"color": {"perplexity": 3.5, "questions": 7}}}}
    told["baselines"]["shuffled_images"] = {"perplexity": 11.5}
    return told | changes


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "surer than it may be"),
        ({"confidence": 0.6}, "less sure than it may be"),
        ({"expected_by_chance": 0.02}, "as often right as it is sure"),  # within the interval
    ],
)
def test_how_sure_is_judged_by_the_interval(build_run, changes, said):
    seen = read_run(build_run(evaluation=calibrated(**changes))).calibration
    assert said in seen.short and [one.answers for one in seen.bins] == [10, 90]


def test_the_page_shows_how_sure_it_is(build_run):
    html = matter(write_report(build_run(evaluation=calibrated())).parent)
    for told in (
        "How sure is it?",
        "75 to 100\u00a0% sure, 90",
        "1.2\u00a0% to 4.6\u00a0%",
        "#sureness",
    ):
        assert told in html, told


def test_without_calibration_there_is_no_such_part(build_run):
    assert "sureness-title" not in matter(write_report(build_run()).parent)
    assert read_run(build_run("other", evaluation=calibrated(ece="much"))).calibration is None


def test_perplexity_is_the_result(build_run):
    run = build_run(**(NO_RESULT | {"evaluation": perplexed()}))
    seen = read_run(run)
    assert seen.perplexity.value == 7.25 and seen.evaluation is None and seen.notes == ()
    html = matter(write_report(run).parent)
    for told in ("7.25", "2,400 tokens of 12 rows", "6.50 to 8.12", "11.5 with other images", "color 3.50"):
        assert told in html, told


def test_one_text_has_no_interval(build_run):
    run = build_run(**(NO_RESULT | {"evaluation": perplexed(interval=None, unit="documents", by_field={})}))
    assert "no interval from a single text" in matter(write_report(run).parent)
