"""T3 on bare evidence: which forward passes are evaluation, and what proves that the mode matters."""

from __future__ import annotations

import pytest

from sightline.guard.check import CannotTell, Finding
from sightline.guard.checks.evaluation.evaluation_in_train_mode import find
from sightline.guard.evidence import EvaluationSeen


@pytest.mark.parametrize(
    "seen",
    [
        EvaluationSeen(9, True, (), difference=0.0),
        EvaluationSeen(9, True, ("drop",), difference=0.0, mode_gap=0.0),
        EvaluationSeen(9, True, (), difference=0.4),
        EvaluationSeen(9, True, (), difference=0.0, dropouts=("dropout",)),
        EvaluationSeen(9, True, ()),
    ],
    ids=["eval mode", "an unused module", "a sampled latent", "dropped values that are not used", "not probed"],
)
def test_silent(seen: EvaluationSeen) -> None:
    assert find(seen) is None


@pytest.mark.parametrize(
    ("seen", "severity"),
    [
        (EvaluationSeen(9, True, ("drop",), difference=0.3, mode_gap=0.2), "error"),
        (EvaluationSeen(9, True, ("norm",), difference=0.0, mode_gap=0.2), "error"),
        (EvaluationSeen(9, True, ("drop",)), "warning"),
        (EvaluationSeen(9, False, ("drop",), difference=0.3, mode_gap=0.2), "warning"),
        (EvaluationSeen(0, True, (), difference=0.3, dropouts=("dropout",)), "error"),
        (EvaluationSeen(9, False, (), difference=0.3, dropouts=("dropout",), since=5), "warning"),
    ],
    ids=["dropout", "batch norm", "not repeatable", "not declared", "functional dropout", "functional, not declared"],
)
def test_found(seen: EvaluationSeen, severity: str) -> None:
    verdict = find(seen)
    assert isinstance(verdict, Finding) and verdict.severity == severity


@pytest.mark.parametrize(("step", "since"), [(0, None), (4, 1), (4, 0)])
def test_what_runs_without_gradients_inside_training_is_no_evaluation(step: int, since: int | None) -> None:
    assert isinstance(find(EvaluationSeen(step, False, ("drop",), 0.3, 0.2, since=since)), CannotTell)


def test_the_fix_names_what_drops() -> None:
    verdict = find(EvaluationSeen(9, True, (), 0.3, dropouts=("scaled_dot_product_attention",)))
    assert isinstance(verdict, Finding)
    assert "scaled_dot_product_attention" in verdict.message and "self.training" in verdict.fix
