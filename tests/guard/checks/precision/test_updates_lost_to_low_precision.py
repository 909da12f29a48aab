"""P4 on bare evidence: what is lost, and what is paid later."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sightline.guard.check import CannotTell, Finding
from sightline.guard.checks.precision.updates_lost_to_low_precision import find
from sightline.guard.evidence import RoundingSeen

LOST = RoundingSeen(20, "bfloat16", 20, updates=1000, swallowed=800, owed=100, paid=0, learning_rate=1e-5)


def test_lost() -> None:
    verdict = find(LOST)
    assert isinstance(verdict, Finding) and "80%" in verdict.message and "1e-05" in verdict.fix


@pytest.mark.parametrize(
    "change", [{"swallowed": 499}, {"owed": 31}, {"paid": 6}, {"owed": 0, "paid": 100}, {"owed": 0, "swallowed": 1000}]
)
def test_silent(change: dict[str, Any]) -> None:
    assert find(replace(LOST, **change)) is None


def test_what_is_guessed_has_room_for_the_guess() -> None:
    guess = replace(LOST, guessed=True, learning_rate=0.0, paid=24)
    verdict = find(guess)
    assert isinstance(verdict, Finding) and "learning rate" not in verdict.fix
    assert find(replace(guess, paid=26)) is None


def test_no_updates() -> None:
    assert isinstance(find(replace(LOST, updates=0, swallowed=0)), CannotTell)
