"""D3 on bare evidence: what ran, what has a gradient, and how many backward passes exchange."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sightline.guard.check import CannotTell, Finding
from sightline.guard.checks.parallel.ranks_call_different_collectives import find
from sightline.guard.evidence import CollectivesSeen, RankFacts, RanksSeen, RanksStuckSeen, Round, StuckRank

ALL, TEXT = ("sight", "text"), ("text",)


def seen(
    one: tuple[str, ...], other: tuple[str, ...], ddp: bool | None, forwards: tuple[int, int] = (1, 1)
) -> RanksSeen:
    """One round. `ddp`: find_unused_parameters, None without the wrapper; names are both called and graded."""
    facts = [RankFacts(r, 5, {"a": 1}, None, names, names, forwards[r], ddp) for r, names in enumerate((one, other))]
    return RanksSeen(5, 2, (Round(5, tuple(facts)),))


def test_a_module_that_one_rank_skips_is_an_error_behind_plain_ddp() -> None:
    found = find(seen(ALL, TEXT, ddp=False))
    assert isinstance(found, Finding) and found.step == 5 and "[1] do not run sight" in found.message


def test_ddp_that_looks_for_unused_parameters_may_skip() -> None:
    assert find(seen(ALL, TEXT, ddp=True)) is None


def test_numbers_of_exchanges_must_agree_behind_any_ddp() -> None:
    assert isinstance(find(seen(ALL, ALL, ddp=True, forwards=(2, 1))), Finding)
    assert find(seen(ALL, ALL, ddp=None, forwards=(2, 1))) is None


def test_without_ddp_gradients_after_the_exchange_decide() -> None:
    found = find(seen(ALL, TEXT, ddp=None))
    assert isinstance(found, Finding) and "no gradient" in found.message
    assert find(seen(ALL, ALL, ddp=None)) is None
    assert find(seen(ALL, (), ddp=None)) is None


def test_independent_ranks_and_steps_that_not_all_reached_cannot_be_told() -> None:
    apart = RanksSeen(5, 2, (Round(5, tuple(RankFacts(r, 5, {"a": r}, None, ALL, ALL, 1) for r in (0, 1))),))
    assert isinstance(find(apart), CannotTell)
    assert isinstance(find(seen(ALL, TEXT, ddp=False, forwards=(1, 0))), CannotTell)


HERE, THERE = StuckRank(0, 7, "all_reduce", "train.py:9"), StuckRank(1, 7, "barrier", "train.py:12")


@pytest.mark.parametrize(
    "other",
    [THERE, replace(HERE, rank=1, step=6), replace(HERE, rank=1, line="train.py:10")],
    ids=["call", "step", "line"],
)
def test_all_wait_at_different_places(other: StuckRank) -> None:
    verdict = find(stuck=RanksStuckSeen(7, 30.0, (HERE, other)))
    assert isinstance(verdict, Finding) and "all ranks have waited for 30 s" in verdict.message


def test_all_wait_at_one_place() -> None:
    assert isinstance(find(stuck=RanksStuckSeen(7, 30.0, (HERE, replace(HERE, rank=1)))), CannotTell)


@pytest.mark.parametrize(
    ("calls", "found"),
    [
        ({0: "all_reduce of 4 torch.float32", 1: "all_reduce of 48 torch.float32"}, True),
        ({0: "all_reduce of 4 torch.float32", 1: "barrier"}, True),
        ({0: "barrier", 1: "barrier"}, False),
    ],
)
def test_calls_that_would_meet(calls: dict[int, str], found: bool) -> None:
    verdict = find(called=CollectivesSeen(19, 210, calls))
    assert isinstance(verdict, Finding) == found
    if isinstance(verdict, Finding):
        assert verdict.severity == "error" and all(call in verdict.message for call in calls.values())
