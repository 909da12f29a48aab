"""L4 on bare evidence: what is a leak, what is rounding, and what proves nothing."""

from __future__ import annotations

import pytest

from sightline.guard.check import CannotTell, Finding
from sightline.guard.checks.model.packing_leaks_attention import find
from sightline.guard.evidence import LeakSeen

BF16_ROUNDING = 2.0**-7 * 16  # of a largest logit of 16


def leak(
    inside: float, outside: float, *, noise: float = 0.0, documents: int = 3, restarts: int | None = 3
) -> LeakSeen:
    return LeakSeen(0, documents, restarts, inside, outside, noise)


@pytest.mark.parametrize(
    "seen",
    [
        leak(1.0, 0.0),
        leak(1.0, 1e-5),
        leak(8.0, 3 * BF16_ROUNDING, noise=BF16_ROUNDING),
        leak(8.0, 0.0, restarts=None),
        leak(8.0, 0.0, restarts=4),
    ],
    ids=["exact", "float32 kernels", "bf16 roundings", "shared prefix", "a document's own zero"],
)
def test_silent(seen: LeakSeen) -> None:
    assert find(seen) is None


@pytest.mark.parametrize(
    "seen",
    [leak(1.0, 1e-3), leak(0.0, 0.1), leak(8.0, 5 * BF16_ROUNDING, noise=BF16_ROUNDING)],
    ids=["faint but far above rounding", "only the others are scored", "above bf16"],
)
def test_found(seen: LeakSeen) -> None:
    verdict = find(seen)
    assert isinstance(verdict, Finding) and verdict.severity == "error"
    assert "block mask" in verdict.fix


def test_a_change_that_moves_nothing_proves_nothing() -> None:
    assert isinstance(find(leak(0.0, 0.0)), CannotTell)
    assert isinstance(find(leak(0.5 * BF16_ROUNDING, 0.0, noise=BF16_ROUNDING)), CannotTell)


def test_positions_that_run_on_are_worth_a_note() -> None:
    verdict = find(leak(1.0, 0.0, restarts=1))
    assert isinstance(verdict, Finding) and verdict.severity == "note"
