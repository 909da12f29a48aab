"""M1 on bare evidence: shared by leakage, by chance, or as a training score."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sightline.guard.check import CannotTell, Finding
from sightline.guard.checks.evaluation.train_test_leakage import find
from sightline.guard.evidence import NearRowsSeen, SharedRowsSeen

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


NEAR = replace(
    LEAK,
    shared=0,
    mixed=0,
    again=0.6,
    near=NearRowsSeen("images", trained=400, evaluated=100, near=20, mixed=20, pairs=80_000, twins=0),
)


def near(**changes: Any) -> SharedRowsSeen:
    assert NEAR.near is not None
    return replace(NEAR, near=replace(NEAR.near, **changes))


def test_near_rows() -> None:
    assert isinstance(find(NEAR), Finding)
    assert isinstance(find(near(near=8)), Finding)
    assert isinstance(find(near(near=100, mixed=0)), Finding)  # all of a small part of the rows trained on


@pytest.mark.parametrize(
    "seen",
    [
        near(near=7),
        near(twins=60),
        replace(NEAR, again=0.1),
        replace(near(near=100, mixed=0), evaluated=400),
        replace(near(mixed=5), complete=False),
        replace(NEAR, near=None),
    ],
    ids=["few", "by chance", "augmented", "a training score", "a score beside a test", "nothing to compare"],
)
def test_near_rows_that_prove_nothing(seen: SharedRowsSeen) -> None:
    assert find(seen) is None


COPIED = replace(LEAK, shared=40, twins=700, parts=300, keys=4)  # 280 would be shared by chance, but 60 are not


def test_copies_of_some_rows() -> None:
    assert isinstance(find(COPIED), Finding)
    assert isinstance(find(replace(COPIED, keys=2)), Finding)


@pytest.mark.parametrize(
    "change",
    [{"keys": 1}, {"parts": 63}, {"mixed": 0}, {"shared": 81}, {"twins": 300}],
    ids=["rows share parts", "too few", "on their own", "as chance has it", "chance leaves many"],
)
def test_copies_that_may_be_chance(change: dict[str, Any]) -> None:
    assert isinstance(find(replace(COPIED, **change)), CannotTell)
