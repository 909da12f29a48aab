"""L1 on bare evidence: what padding moves, and what the host made of it."""

from __future__ import annotations

from math import inf

import pytest

from sightline.guard.check import CannotTell, Finding
from sightline.guard.checks.evaluation.wrong_padding_side import find
from sightline.guard.evidence import PaddingSeen


def right(gap: float, followed: float | None, noise: float = 1e-6) -> PaddingSeen:
    return PaddingSeen(3, "right", followed is not None, 2, gap, noise, followed)


@pytest.mark.parametrize("followed", [inf, 4.0, 1.0])
def test_generation_from_padding(followed: float) -> None:
    verdict = find(right(0.4, followed))
    assert isinstance(verdict, Finding) and verdict.severity == "error" and 'padding_side="left"' in verdict.fix


@pytest.mark.parametrize(
    "seen",
    [
        right(0.4, -inf),
        right(0.4, -2.0),
        right(5e-4, inf),
        right(0.1, inf, noise=0.02),
        PaddingSeen(3, "left", True, 2, 1e-5, 1e-6, 0.0),
        PaddingSeen(3, "left", False, 2, 0.05, 8e-3),
    ],
    ids=["read at the last real token", "sampled there", "float32", "bf16", "left", "left in bf16"],
)
def test_silent(seen: PaddingSeen) -> None:
    assert find(seen) is None


@pytest.mark.parametrize("generating", [True, False])
def test_left_padding_that_shifts_positions(generating: bool) -> None:
    verdict = find(PaddingSeen(3, "left", generating, 2, 0.3, 1e-6, 0.0 if generating else None))
    assert isinstance(verdict, Finding) and verdict.severity == "warning" and "position_ids" in verdict.fix


@pytest.mark.parametrize("seen", [right(0.4, 0.0), right(0.4, 0.9), right(0.4, None)])
def test_cannot_tell(seen: PaddingSeen) -> None:
    assert isinstance(find(seen), CannotTell)
