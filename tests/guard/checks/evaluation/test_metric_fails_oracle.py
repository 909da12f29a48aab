"""M3 on bare evidence: perfect, best, least, or neither."""

from __future__ import annotations

import pytest

from sightline.guard.check import CannotTell, Finding
from sightline.guard.checks.evaluation.metric_fails_oracle import find
from sightline.guard.evidence import OracleSeen


@pytest.mark.parametrize(
    ("truth", "spoilt", "perfect"),
    [
        (0.99, (0.1, 0.2), 1.0),
        (0.5, (0.4, 0.6), None),
        (0.7, (0.1, 0.0), None),
        (0.0, (0.1,), 1.0),
    ],
)
def test_found(truth: float, spoilt: tuple[float, ...], perfect: float | None) -> None:
    verdict = find(OracleSeen(0, "iou", truth, spoilt, perfect))
    assert isinstance(verdict, Finding) and "'iou'" in verdict.message


@pytest.mark.parametrize(
    ("truth", "spoilt", "perfect"),
    [
        (1.0, (0.1, 0.2), None),
        (0.9995, (0.1, 0.2), 1.0),
        (100.0, (0.1, 20.0), None),
        (0.0, (0.1, 3.0), None),
        (0.0, (-0.1, -3.0), None),
        (-2.0, (-3.0, -9.0), None),
        (1.0, (4.0, 9.0), None),
        (float("inf"), (20.0, 10.0), None),
    ],
    ids=["share", "rounded", "percent", "error", "negated", "log-likelihood", "perplexity", "psnr"],
)
def test_silent(truth: float, spoilt: tuple[float, ...], perfect: float | None) -> None:
    assert find(OracleSeen(0, "m", truth, spoilt, perfect)) is None


def test_a_metric_that_says_the_same_of_all() -> None:
    assert isinstance(find(OracleSeen(0, "m", 0.5, (0.5, 0.5))), CannotTell)
