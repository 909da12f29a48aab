"""What a sweep found: intervals, ranks, and runs that are missing."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from sightline.report.sweep import Outcome, as_csv, as_page, by_setting, headline, interval, outcome


def outcomes(figures: dict[str, list[float]], name: str = "accuracy") -> list[Outcome]:
    found = []
    for setting, values in figures.items():
        for seed, value in enumerate(values):
            found.append(Outcome(len(found), {"lr": setting}, seed, "finished", {name: value, "loss": 1.0}))
    return found


def test_interval_is_students() -> None:
    """Of the ten differences in hours of sleep by Student himself (1908): mean 1.58, s 1.23, t(9) = 2.262."""
    hours = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
    assert interval(hours) == pytest.approx((0.700, 2.460), abs=1e-3)
    assert interval([0.5]) is None
    low, high = interval([0.0, 1.0] * 100) or (0.0, 0.0)
    assert high - low == pytest.approx(2 * 1.9720 * 0.50125 / 200**0.5, rel=1e-3)  # t(199)


def test_the_best_comes_first() -> None:
    assert [s["lr"] for s, _ in by_setting(outcomes({"a": [0.1, 0.2], "b": [0.5, 0.6]}), "accuracy")] == ["b", "a"]
    assert [s["lr"] for s, _ in by_setting(outcomes({"a": [3.0], "b": [9.0]}, "perplexity"), "perplexity")] == [
        "a",
        "b",
    ]


def test_the_page_says_what_is_not_settled_and_what_is_missing() -> None:
    found = outcomes({"a": [0.5, 0.6, 0.7], "b": [0.55, 0.65, 0.75]})
    assert "not settled" in as_page("tiny", found) and "3 |" in as_page("tiny", found)
    apart = outcomes({"a": [0.1, 0.11, 0.12], "b": [0.8, 0.81, 0.82]})
    assert "not settled" not in as_page("tiny", apart) and "may be chance" in as_page(
        "tiny", outcomes({"a": [1], "b": [2]})
    )
    waiting = [*apart, Outcome(6, {"lr": "c"}, 0, "waiting", {})]
    page = as_page("tiny", waiting)
    assert "6 of 7 runs are finished" in page and "- run 6: waiting" in page
    assert headline(waiting) == "accuracy" and headline([waiting[-1]]) is None


def test_figures_are_read_from_the_run(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"status": "finished"}))
    events = [{"event": "train", "loss": 3.0}, {"event": "train", "loss": 2.0}, {"event": "validation", "loss": 2.5}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events) + '{"event": "tr')
    (tmp_path / "evaluation.json").write_text(json.dumps({"accuracy": 0.75, "metric": "exact-match"}))
    found = outcome(0, {"lr": "1e-3"}, 4, tmp_path)
    assert found.figures == {"loss": 2.0, "validation loss": 2.5, "accuracy": 0.75}
    (row,) = csv.DictReader(as_csv([found]).splitlines())
    assert row == {
        "run": "0", "lr": "1e-3", "seed": "4", "status": "finished",
        "accuracy": "0.75", "loss": "2.0", "validation loss": "2.5",
    }  # fmt: skip
    assert outcome(1, {}, 0, tmp_path / "none").status == "waiting"
