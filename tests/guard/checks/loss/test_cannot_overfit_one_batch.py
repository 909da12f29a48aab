"""T8 on bare evidence."""

from __future__ import annotations

import pytest

from sightline.guard.check import CannotTell, Finding
from sightline.guard.checks.loss.cannot_overfit_one_batch import find
from sightline.guard.evidence import OverfitSeen


@pytest.mark.parametrize(
    ("least", "severity"), [(0.0, None), (1.0, None), (1.01, "warning"), (1.89, "warning"), (1.95, "error")]
)
def test_how_far_it_came_down(least: float, severity: str | None) -> None:
    verdict = find(OverfitSeen(0, 2.0, ((1e-3, 2.0), (1e-2, least)), 80))
    assert (verdict.severity if isinstance(verdict, Finding) else verdict) == severity


def test_time_that_ran_out() -> None:
    assert isinstance(find(OverfitSeen(0, 2.0, ((1e-3, 2.0),), 0, complete=False)), CannotTell)
    assert find(OverfitSeen(0, 2.0, ((1e-3, 0.5),), 40, complete=False)) is None


def test_a_loss_that_is_not_positive() -> None:
    assert isinstance(find(OverfitSeen(0, -1.0, ((1e-3, -2.0),), 80)), CannotTell)
    assert isinstance(find(OverfitSeen(0, float("nan"), ((1e-3, 1.0),), 80)), CannotTell)
