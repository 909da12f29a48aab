"""M1 on bare evidence: shared by leakage, by chance, or as a training score."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sightline.guard.check import CannotTell, Finding
from sightline.guard.checks.evaluation.train_test_leakage import find
from sightline.guard.evidence import SharedRowsSeen

LEAK = SharedRowsSeen(9, trained=400, evaluated=100, shared=40, mixed=5, complete=True, pairs=100_000, twins=0)


def test_a_part_or_all_of_it() -> None:
    assert isinstance(find(LEAK), Finding)
    assert isinstance(find(replace(LEAK, shared=100, mixed=0)), Finding)
    assert isinstance(find(replace(LEAK, shared=5)), Finding)


@pytest.mark.parametrize(
    "change",
    [
        {"shared": 0},
        {"shared": 2},
        {"shared": 9, "evaluated": 1000},
        {"shared": 100, "mixed": 0, "trained": 100},
        {"shared": 100, "mixed": 0, "complete": False},
        {"shared": 50, "mixed": 0},
    ],
    ids=["none", "two", "below a hundredth", "the training set", "perhaps the training set", "a bank and a test"],
)
def test_silent(change: dict[str, Any]) -> None:
    assert find(replace(LEAK, **change)) is None


@pytest.mark.parametrize("change", [{"evaluated": 0}, {"trained": 0}, {"twins": 500}, {"pairs": 1000}])
def test_what_cannot_be_told(change: dict[str, Any]) -> None:
    assert isinstance(find(replace(LEAK, **change)), CannotTell)
