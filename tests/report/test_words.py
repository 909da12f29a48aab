from __future__ import annotations

from dataclasses import replace

import pytest

from sightline.report.looking import Looking
from sightline.report.values import Baseline, CheckSeen, Evaluation, Guard
from sightline.report.words import found_sound, looks_at_the_picture

PASSED = CheckSeen("passed", "unmasked-labels", "L2", "The prompt is trained on.")


def scored(accuracy: float, half: float = 0.01, **baselines: float) -> Evaluation:
    others = {kind: Baseline(kind, value, "") for kind, value in baselines.items()}
    return Evaluation("test", "exact-match", 100, accuracy, (accuracy - half, accuracy + half), (), others, False)


def guard(*severities: str, passed: bool = True) -> Guard:
    found = tuple((CheckSeen("finding", f"check-{s}", "X", "", severity=s),) for s in severities)
    return Guard(recorded=True, found=found, passed=(PASSED,) * passed)


@pytest.mark.parametrize(
    ("evaluation", "tone", "short"),
    [
        (scored(0.98, text_only=0.68, shuffled_images=0.52), "good", "The model looks at the picture"),
        (scored(0.98, shuffled_images=0.52), "good", "The model looks at the picture"),
        (scored(0.53, text_only=0.68, shuffled_images=0.525), "bad", "The model does not look at the picture"),
        (scored(0.66, text_only=0.68, shuffled_images=0.52), "bad", "The model is no better than the words"),
        (scored(0.685, text_only=0.68), "bad", "The model is no better than the words"),  # within the interval
        (scored(0.98), "unknown", "Whether the model looks at the picture is not known"),
        (None, "unknown", "Whether the model looks at the picture is not known"),
    ],
)
def test_whether_it_looks(evaluation, tone, short):
    clause = looks_at_the_picture(evaluation)
    assert clause.tone == tone and clause.short.startswith(short)


def test_the_ceiling_is_what_must_be_passed_not_one_guess_below_it():
    base = Baseline("text_only", 0.60, "", ceiling=0.75)
    seen = Evaluation("test", "exact-match", 100, 0.70, (0.69, 0.71), (), {"text_only": base}, False)
    assert looks_at_the_picture(seen).tone == "bad"


@pytest.mark.parametrize(
    ("says", "accuracy", "tone", "short"),
    [
        ("looks", 0.72, "good", "The model looks at the picture"),
        ("looks", 0.60, "bad", "The model looks at the picture, and is no better than the words"),
        ("does not look", 0.98, "bad", "The model does not look at the picture"),
        ("cannot tell", 0.98, "unknown", "Whether the model looks at the picture cannot be told"),
    ],
)
def test_the_evaluations_own_verdict_goes_before_the_ceiling(says, accuracy, tone, short):
    base = Baseline("text_only", 0.60, "", ceiling=0.75)  # the ceiling is known from the answers alone
    seen = replace(scored(accuracy), baselines={"text_only": base})
    clause = looks_at_the_picture(
        replace(seen, looking=Looking(says, "why", "rule", (), None, accuracy, 100, 100, False))
    )
    assert clause.tone == tone and clause.short.startswith(short) and clause.long.startswith("Why. ")


@pytest.mark.parametrize(
    ("seen", "status", "tone", "short"),
    [
        (guard(), "finished", "good", "the guard found the run sound"),
        (guard("note"), "finished", "good", "the guard found the run sound"),
        (guard("warning"), "finished", "warn", "the guard found 1\u00a0warning"),
        (guard("error", "warning"), "finished", "bad", "the guard found 1\u00a0error and 1\u00a0warning"),
        (guard("odd"), "finished", "bad", "the guard found 1\u00a0finding"),
        (guard(), "failed", "unknown", "the guard found nothing wrong before the run ended"),
        (guard(), "running", "unknown", "the guard found nothing wrong so far"),
        (guard(passed=False), "finished", "unknown", "the guard cannot vouch for the run"),
        (Guard(), "finished", "unknown", "the guard cannot vouch for the run"),
    ],
)
def test_whether_it_was_sound(seen, status, tone, short):
    clause = found_sound(seen, status)
    assert (clause.tone, clause.short) == (tone, short)
