"""I4 on bare evidence: how far another sample may move, and how many may come out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sightline.guard.check import CannotTell, Finding
from sightline.guard.checks.data.batch_collapsed import find
from sightline.guard.evidence import RowsSeen

SEEN = RowsSeen(3, 4, (4, 2), own=1.0, others=(0.0, 0.0, 0.0), noise=1e-7)


def test_only_the_changed_sample_moves() -> None:
    assert find(SEEN) is None


@pytest.mark.parametrize(("moved", "found"), [(0.5, True), (0.011, True), (0.009, False), (1e-6, False)])
def test_others_that_move(moved: float, found: bool) -> None:
    verdict = find(replace(SEEN, others=(moved, 0.0, 0.0)))
    assert isinstance(verdict, Finding) is found


def test_what_rounding_explains_is_silent() -> None:
    assert find(replace(SEEN, own=1.0, others=(0.3, 0.0, 0.0), noise=0.1)) is None


def test_fewer_samples_out_than_in() -> None:
    found = find(replace(SEEN, output=(2, 4), own=None))
    assert isinstance(found, Finding) and found.message == "4 samples went in and 2 came out"


@pytest.mark.parametrize(
    "change",
    [
        {"own": 0.0},
        {"own": None, "output": (5, 2)},
        {"others": (1.0, 1.0, 1.0), "varied": False},
        {"output": (1, 2), "own": None, "varied": False},
    ],
    ids=["no effect", "more out than in", "one fixed set of rows", "one fixed set, pooled"],
)
def test_what_cannot_be_told(change: dict) -> None:
    assert isinstance(find(replace(SEEN, **change)), CannotTell)
