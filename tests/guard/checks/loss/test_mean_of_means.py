"""T5 on bare evidence: weights of a token that follow the counts, or do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from sightline.guard.check import CannotTell, Finding
from sightline.guard.checks.loss.mean_of_means import find
from sightline.guard.evidence import History, LossSeen, ParameterSeen, RankFacts, RanksSeen, Round, StepSeen

PARAMETER = ParameterSeen("w", "model", 1, "float32", True, True, 0.1, 1.0, 1.0, 1e-3, True)
UNEQUAL = (2, 8, 5)


def run(weight: Callable[[int, int], float], counts: Sequence[Sequence[int]], softmax: float = 1.0) -> History:
    """Steps with these supervised counts. `weight`: (count, count of the whole step) -> what a token weighs."""
    return History(
        tuple(
            StepSeen(
                step,
                micro=tuple(LossSeen(step, m, n, weight(n, sum(row)), softmax, 0.0) for m, n in enumerate(row)),
                parameters=(PARAMETER,),
            )
            for step, row in enumerate(counts, start=1)
        )
    )


def mean(count: int, total: int) -> float:
    return 1 / (3 * max(1, count))


def right(count: int, total: int) -> float:
    return 1 / total


def test_means_of_several_tasks_in_one_backward_pass() -> None:
    def passes(count: int) -> History:
        steps = run(mean, [UNEQUAL] * 6).steps
        return History(tuple(replace(step, met=(0.0, 1.0, 2.0)[:count]) for step in steps))

    assert isinstance(find(passes(3)), Finding)
    assert not isinstance(find(passes(1)), Finding)


@pytest.mark.parametrize(
    "history",
    [
        run(right, [UNEQUAL] * 6),
        run(mean, [(8, 8, 8)] * 6),
        run(mean, [(8, 9, 9)] * 6),
        run(mean, [UNEQUAL] * 2 + [(8, 8, 8)] * 4),
        run(mean, [UNEQUAL] * 3 + [(8, 8, 8)] * 4),
        run(lambda n, total: n**-0.5, [UNEQUAL] * 6),
    ],
    ids=["global mean", "equal counts", "nearly equal", "two partial batches", "less than half", "by the square root"],
)
def test_silent(history: History) -> None:
    assert find(history) is None


@pytest.mark.parametrize(
    "history",
    [
        run(mean, [UNEQUAL] * 3),
        run(lambda n, total: 1 / n, [UNEQUAL] * 3),
        run(lambda n, total: 65536.0 / n, [UNEQUAL] * 3),
        run(lambda n, total: mean(n, total) * (1.01 if n == 2 else 1.0), [UNEQUAL] * 3),
    ],
    ids=["averaged", "added up", "under a loss scale", "read from bf16"],
)
def test_found(history: History) -> None:
    verdict = find(history)
    assert isinstance(verdict, Finding) and "supervised rows counts 4" in verdict.message
    assert verdict.seen["supervised rows"] == [2, 8, 5] and "num_items" not in verdict.fix
    verdict = find(History(tuple(replace(step, tokens=15) for step in history.steps)))
    assert isinstance(verdict, Finding) and "supervised tokens counts 4" in verdict.message
    assert verdict.seen["supervised tokens"] == [2, 8, 5] and "num_items" in verdict.fix


@pytest.mark.parametrize(
    "history",
    [run(mean, [(8,)] * 6), run(mean, [UNEQUAL] * 6, softmax=0.2), run(mean, [(0, 8)] * 6)],
    ids=["no accumulation", "another loss", "nothing supervised"],
)
def test_cannot_tell(history: History) -> None:
    assert isinstance(find(history), CannotTell)


def ranks(weight: Callable[[int, int], float], counts: Sequence[int], *, exchanged: bool = True) -> RanksSeen:
    """Rounds in which each rank supervised one of these counts."""

    def facts(rank: int, step: int) -> RankFacts:
        taught = ((counts[rank], counts[rank] * weight(counts[rank], sum(counts)), 1.0),)
        return RankFacts(rank, step, {"w": 1}, finds_unused=False if exchanged else None, taught=taught)

    rounds = tuple(Round(step, tuple(facts(rank, step) for rank in range(len(counts)))) for step in range(6))
    return RanksSeen(6, len(counts), rounds)


def test_a_mean_on_each_rank() -> None:
    found = find(ranks=ranks(mean, (4, 12)))
    assert isinstance(found, Finding) and "a rank of 4 supervised tokens counts 3 times" in found.message
    assert not isinstance(find(ranks=ranks(right, (4, 12))), Finding)
    assert not isinstance(find(ranks=ranks(mean, (10, 12))), Finding)
    assert not isinstance(find(ranks=ranks(mean, (4, 12), exchanged=False)), Finding)


def test_means_of_what_a_mask_leaves() -> None:
    def steps(weight: Callable[[int, int], float], counts: Sequence[int]) -> History:
        means = tuple((n, weight(n, sum(counts))) for n in counts)
        return History(tuple(StepSeen(step, means=means, parameters=(PARAMETER,)) for step in range(1, 7)))

    assert isinstance(find(steps(mean, UNEQUAL)), Finding)
    assert not isinstance(find(steps(right, UNEQUAL)), Finding)
    assert not isinstance(find(steps(mean, UNEQUAL[:2])), Finding)  # may be two tasks
