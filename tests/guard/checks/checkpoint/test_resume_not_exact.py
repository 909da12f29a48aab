"""K2 on bare evidence: what differs, and what was never saved."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sightline.guard.check import CannotTell, Finding
from sightline.guard.checks.checkpoint.resume_not_exact import find
from sightline.guard.evidence import ResumeSeen

BOTH = ("weights", "optimizer", "schedule")
EXACT = ResumeSeen(0, "c.pt", saved=BOTH, live=BOTH, compared=BOTH)


def test_exact() -> None:
    assert find(EXACT) is None
    assert find(replace(EXACT, live=("weights",), compared=("weights",))) is None  # more was saved than is needed


@pytest.mark.parametrize(
    ("part", "severity"),
    [("optimizer", "error"), ("weights", "error"), ("schedule", "error"), ("random state", "warning")],
)
def test_what_differs(part: str, severity: str) -> None:
    verdict = find(replace(EXACT, differ=((part, "it is not"),)))
    assert isinstance(verdict, Finding) and verdict.severity == severity and part in verdict.message


@pytest.mark.parametrize("part", ["optimizer", "schedule"])
def test_what_was_never_saved(part: str) -> None:
    kept = tuple(name for name in BOTH if name != part)
    verdict = find(replace(EXACT, saved=kept, compared=kept))
    assert isinstance(verdict, Finding) and verdict.severity == "warning" and f"no {part}" in verdict.message


def test_nothing_in_common() -> None:
    assert isinstance(find(replace(EXACT, saved=(), compared=())), CannotTell)
