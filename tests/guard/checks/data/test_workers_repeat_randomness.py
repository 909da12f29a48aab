"""I1 on bare evidence: equal draws by fault and by chance."""

from __future__ import annotations

import pytest

from sightline.guard.check import CannotTell, Finding
from sightline.guard.checks.data.workers_repeat_randomness import find
from sightline.guard.evidence import DrawsSeen

MANY, OTHER, LATER = tuple(range(24)), tuple(range(24, 48)), tuple(range(48, 72))


def test_two_workers_with_the_same_draws() -> None:
    found = find(DrawsSeen(0, {0: MANY, 1: MANY}, {}))
    assert isinstance(found, Finding) and found.severity == "warning"


def test_the_same_draws_in_the_next_epoch_are_a_note() -> None:
    found = find(DrawsSeen(0, {0: MANY, 1: OTHER}, {0: MANY, 1: OTHER}))
    assert isinstance(found, Finding) and found.severity == "note"


@pytest.mark.parametrize("again", [{}, {0: LATER, 1: MANY}])
def test_different_draws_are_silent(again: dict) -> None:
    assert find(DrawsSeen(0, {0: MANY, 1: OTHER}, again)) is None


def test_samples_that_are_not_random_are_silent() -> None:
    same = (5,) * 24
    assert find(DrawsSeen(0, {0: same, 1: same}, {0: same, 1: same})) is None


def test_a_flip_needs_many_draws_and_a_rare_change_proves_nothing() -> None:
    flips = (0, 1) * 12
    assert isinstance(find(DrawsSeen(0, {0: flips, 1: flips}, {})), Finding)
    assert find(DrawsSeen(0, {0: flips[:12], 1: flips[:12]}, {})) is None
    rare = (1, *(0,) * 23)
    assert find(DrawsSeen(0, {0: rare, 1: rare}, {})) is None


def test_one_worker_cannot_be_compared() -> None:
    assert isinstance(find(DrawsSeen(0, {0: MANY}, {})), CannotTell)
