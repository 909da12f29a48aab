"""`sightline robust` on a run: what it prints, what it writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

SMALL = [
    "evaluate.robust.attacks=[{kind: pgd, epsilon: [8/255], steps: 1}, {kind: patch, epsilon: [0.1], steps: 1}]",
    "evaluate.robust.corruptions=[fog]",
    "evaluate.robust.severities=[1, 5]",
]


@pytest.mark.slow
def test_robust_writes_what_it_prints(call, run: Path) -> None:
    done = call("robust", run, "--limit", "4", *SMALL)
    assert done.exit_code == 0, done.output
    found = json.loads((run / "robustness.json").read_text())
    assert (found["questions"], found["of"], found["partial"]) == (4, 12, True)
    assert f"untouched: {100 * found['clean']['accuracy']:.1f} % of 4 of 12 questions of test" in done.stdout
    for told in ("pgd-linf  8/255: ", "patch  10.0 %: ", "checks of the attacks: ", "fog", "typos: ", "falsehood: "):
        assert told in done.stdout, told
    assert [curve["name"] for curve in found["attacks"]] == ["pgd-linf", "patch"]
    assert set(found["corruptions"]["table"]["fog"]["severities"]) == {"1", "5"}
    assert set(found["words"]) == {"typos", "case", "paraphrase"}
    assert set(found["contradiction"]) == {"asserted", "printed"}
    page = (run / "report.html").read_text()
    assert "How it breaks" in page and "report: file://" in done.stdout
    transfer = next(check for check in found["checks"] if check["check"] == "stronger-than-transfer")
    assert transfer["passed"] is None and "one checkpoint" in transfer["says"]


def test_nothing_but_words(call, run: Path) -> None:
    nothing = [f"evaluate.robust.{part}=[]" for part in ("attacks", "corruptions", "contradiction")]
    done = call("robust", run, *nothing, "evaluate.robust.words=[case]")
    assert done.exit_code == 0, done.output
    found = json.loads((run / "robustness.json").read_text())
    assert found["attacks"] == found["checks"] == [] and set(found["words"]) == {"case"} and not found["partial"]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("evaluate.metric=none", "marks no answers"),
        ("evaluate.robust.attacks=[{kind: pgd, epsilon: []}]", "at least one bound"),
        ("evaluate.robust.attacks=[{kind: pgd, epsilon: [many]}]", "is no number"),
        ("evaluate.robust.attacks=[{kind: patch, epsilon: [2]}]", "more than all of it"),
        ("evaluate.robust.corruptions=[rain]", "corruptions"),
        ("evaluate.robust.severities=[6]", "severities"),
        ("evaluate.robust.transfer=nowhere", "nowhere"),
        ("evaluate.metric=zero-shot", "embeds no images"),
        ("seed=3", "trained already"),
    ],
)
def test_bad_input_is_one_clear_error(call, run: Path, override: str, told: str) -> None:
    done = call("robust", run, "--limit", "2", override)
    assert done.exit_code == 2 and told in done.stderr, done.output
    assert done.stderr.startswith("error:") and "Traceback" not in done.output
