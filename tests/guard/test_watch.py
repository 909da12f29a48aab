"""The watch: runs a check when its needs are there, tells once, allows with a reason, and never passes in silence."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from sightline.errors import UserError
from sightline.guard.catalogue import Check, load, page
from sightline.guard.check import CannotTell, Finding, Verdict, Withdrawn
from sightline.guard.evidence import BatchSeen, Progress, Setup, StepSeen
from sightline.guard.report import as_lines, print_summary, told
from sightline.guard.watch import GuardError, Watch

BATCH, SETUP = BatchSeen(phase="train", step=3), Setup(towers={})


def check_that(says: object, code: str = "X4") -> Check:
    """The check of this code, whose `find` gives what it is told."""
    (check,) = load((page(code),))
    return replace(check, find=lambda **_: says)


def test_a_check_waits_for_all_its_needs() -> None:
    watch = Watch([check_that(Finding("error", "m", "f"))])
    assert watch.offer(BATCH) == []
    assert [f.check for f in watch.offer(SETUP)] == ["truncated-image-tokens"]


def test_a_finding_is_told_once_and_counted() -> None:
    told_to: list[Finding] = []
    watch = Watch([check_that(Finding("error", "m", "f"))], on_finding=told_to.append)
    watch.offer(SETUP)
    assert [len(watch.offer(replace(BATCH, step=n))) for n in (3, 4, 5)] == [1, 0, 0]
    (record,) = watch.records()
    assert (record["step"], record["times"], len(told_to)) == (3, 3, 1)


def test_passed_not_run_and_why() -> None:
    watch = Watch([check_that(None)])
    watch.absent("BatchSeen", "no forward pass was seen")
    assert watch.records()[0]["why"] == "no forward pass was seen; the run showed no Setup"
    watch.offer(SETUP), watch.offer(BATCH)
    assert watch.records()[0]["kind"] == "passed"


@pytest.mark.parametrize(
    ("then", "found"), [(None, "late"), (Withdrawn(), None), (Finding("error", "at once", "f"), "at once")]
)
def test_a_late_finding_stands_unless_it_is_withdrawn(then: Verdict, found: str | None) -> None:
    verdicts, heard = iter([Finding("error", "late", "f", late=True), then]), list[Finding]()
    watch = Watch([replace(check_that(None), find=lambda **_: next(verdicts))], on_finding=heard.append)
    watch.offer(SETUP), watch.offer(BATCH)
    assert not heard and [one.message for one in watch.findings] == ["late"]
    watch.offer(BATCH)
    assert [one.message for one in watch.findings] == ([found] if found else [])
    assert [one.message for one in heard] == (["at once"] if found == "at once" else [])
    assert watch.records()[0]["kind"] == ("finding" if found else "passed")
    watch.settle()
    assert [one.message for one in heard] == ([found] if found else [])


def test_an_error_of_one_check_leaves_the_others_at_work() -> None:
    def breaks(**_: object) -> Verdict:
        raise OverflowError("too small")

    broken, faults = replace(check_that(None, "X4"), find=breaks), list[str]()
    alone = Watch([broken])
    alone.offer(SETUP)
    with pytest.raises(OverflowError):
        alone.offer(BATCH)
    watch = Watch([broken, check_that(Finding("error", "m", "f"), "L2")], on_fault=lambda name, _: faults.append(name))
    watch.offer(SETUP), watch.offer(BATCH), watch.offer(BATCH)
    assert faults == ["truncated-image-tokens"] and [one.code for one in watch.findings] == ["L2"]
    (record,) = (one for one in watch.records() if one["code"] == "X4")
    assert record["kind"] == "not-run" and record["why"] == "an error of the check's own: OverflowError: too small"


def test_what_was_told_at_once_is_not_withdrawn() -> None:
    verdicts = iter([Finding("error", "m", "f"), Withdrawn()])
    watch = Watch([replace(check_that(None), find=lambda **_: next(verdicts))])
    watch.offer(SETUP), watch.offer(BATCH), watch.offer(BATCH)
    assert [one.message for one in watch.findings] == ["m"]


def test_cannot_tell_is_not_run() -> None:
    watch = Watch([check_that(CannotTell("labels"))])
    watch.offer(SETUP), watch.offer(BATCH)
    assert watch.records()[0] | {"why": "the run showed no labels", "kind": "not-run"} == watch.records()[0]


def test_what_was_missing_at_the_last_is_the_reason() -> None:
    """What had only not come yet is none: a run of many steps did not lack any."""
    verdicts = iter([CannotTell("optimizer step"), CannotTell("two towers")])
    watch = Watch([replace(check_that(None), find=lambda **_: next(verdicts))])
    watch.offer(SETUP), watch.offer(BATCH), watch.offer(BATCH)
    assert watch.records()[0]["why"] == "the run showed no two towers"


@pytest.mark.parametrize("key", ["X4", "x4", "truncated-image-tokens", "x4-truncated-image-tokens"])
def test_allowed_with_a_reason_is_kept_aside(key: str) -> None:
    watch = Watch([check_that(Finding("error", "m", "f"))], allow={key: "a test"})
    watch.offer(SETUP)
    assert watch.offer(BATCH) == [] and watch.findings == ()
    assert watch.records()[0]["kind"] == "allowed" and watch.records()[0]["reason"] == "a test"


@pytest.mark.parametrize("allow", [{"x4": " "}, {"no-such-check": "because"}])
def test_allow_needs_a_known_check_and_a_reason(allow: dict[str, str]) -> None:
    with pytest.raises(UserError, match="allow"):
        Watch([], allow=allow)


def test_a_new_setup_starts_a_new_history() -> None:
    lengths: list[int] = []
    (t1,) = load((page("T1"),))
    watch = Watch([replace(t1, find=lambda history=None, **_: lengths.append(len(history.steps) if history else 0))])
    for seen in (StepSeen(1), StepSeen(2), SETUP, StepSeen(1), Progress(8, 8, 1, closed=False)):
        watch.offer(seen)
    assert lengths == [1, 2, 0, 1, 1]


def test_on_trial_is_shown_as_a_note() -> None:
    check = check_that(Finding("error", "m", "f"))
    watch = Watch([replace(check, page=replace(check.page, on_trial=True))])
    watch.offer(SETUP)
    assert watch.offer(BATCH)[0].severity == "note"


def test_reports_are_json_lines_and_plain_words(capsys: pytest.CaptureFixture[str]) -> None:
    watch = Watch([check_that(Finding("error", "m", "f", seen={"count": 3}))])
    watch.offer(SETUP), watch.offer(BATCH)
    (line,) = as_lines(watch.records()).splitlines()
    assert json.loads(line)["evidence"] == {"count": 3}
    text = told(watch.findings[0])
    assert "X4" in text and "step 3" in text and "fix: f" in text and "explain X4" in text
    print_summary(watch.records())
    assert "1 finding" in capsys.readouterr().err


def test_a_guard_error_carries_its_findings() -> None:
    error = GuardError([Finding("error", "m", "f", check="c", code="X4")])
    assert isinstance(error, UserError) and error.findings[0].message == "m" and "fix: f" in str(error)
