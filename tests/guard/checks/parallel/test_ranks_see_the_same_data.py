"""D2 on bare evidence: equal batches, and where they prove nothing."""

from __future__ import annotations

import pytest

from sightline.guard.check import CannotTell, Finding
from sightline.guard.checks.parallel.ranks_see_the_same_data import find
from sightline.guard.evidence import RankFacts, RanksSeen, Round


def seen(*batches: tuple[int, ...], states: tuple[int, ...] | None = None, sharded: bool = False) -> RanksSeen:
    """Batches by rank at steps 0, 1, ...; each rank's state."""
    held = states or (1,) * len(batches[0])
    rounds = tuple(
        Round(
            step,
            tuple(RankFacts(r, step, {"a": held[r]}, batch=b, forwards=1, sharded=sharded) for r, b in enumerate(row)),
        )
        for step, row in enumerate(batches)
    )
    return RanksSeen(len(batches) - 1, len(batches[0]), rounds)


def test_the_same_four_batches_on_two_ranks() -> None:
    found = find(seen((1, 1), (2, 2), (3, 3), (4, 4)))
    assert isinstance(found, Finding) and found.severity == "error" and found.seen["ranks"] == (0, 1)


def test_a_pair_among_four_ranks_is_named() -> None:
    found = find(seen(*[(n, n + 100, n, n + 200) for n in range(4)]))
    assert isinstance(found, Finding) and found.seen["ranks"] == (0, 2)


@pytest.mark.parametrize("batches", [[(n, n + 9) for n in range(4)], [(1, 1), (2, 2), (3, 3), (4, 5)]])
def test_one_step_with_different_batches_is_enough_to_be_silent(batches: list) -> None:
    assert find(seen(*batches)) is None


def test_a_batch_that_never_changes_proves_nothing() -> None:
    assert isinstance(find(seen(*[(7, 7)] * 10)), CannotTell)


def test_sharded_or_independent_ranks_may_see_the_same() -> None:
    rows = [(n, n) for n in range(5)]
    assert isinstance(find(seen(*rows, sharded=True)), CannotTell)
    assert isinstance(find(seen(*rows, states=(1, 2))), CannotTell)
