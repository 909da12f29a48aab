"""D1 on bare evidence: which differences between ranks are a fault."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sightline.guard.check import CannotTell, Finding
from sightline.guard.checks.parallel.ranks_diverge import find
from sightline.guard.evidence import RankFacts, RanksSeen, Round

EQUAL, APART, PART = ({"a": 1, "b": 2}, {"a": 1, "b": 2}), ({"a": 1, "b": 2}, {"a": 3, "b": 4}), ({"a": 1}, {"a": 1})


def seen(*states: tuple[dict[str, int], dict[str, int]], ddp: bool = True, final: bool = False) -> RanksSeen:
    """Rounds at steps 0, 1, ...: the state of either rank."""
    rounds = [
        Round(step, tuple(RankFacts(r, step, s, finds_unused=False if ddp else None) for r, s in enumerate(pair)))
        for step, pair in enumerate(states)
    ]
    return RanksSeen(rounds[-1].step, 2, tuple(rounds), final)


def test_behind_ddp_three_rounds_apart_are_an_error_told_with_the_first_step() -> None:
    found = find(seen(EQUAL, APART, APART, APART))
    assert isinstance(found, Finding) and found.severity == "error" and found.step == 1


@pytest.mark.parametrize("states", [[EQUAL] * 4, [EQUAL, APART, APART], [EQUAL, APART, APART, EQUAL]])
def test_equal_or_not_yet_apart_for_long_is_silent(states: list) -> None:
    assert find(seen(*states)) is None


def test_local_averaging_that_brings_ranks_together_is_silent() -> None:
    states = [EQUAL, APART, APART, APART, EQUAL, APART, APART, APART]
    assert find(seen(*states, EQUAL, ddp=False, final=True)) is None


def test_without_ddp_the_end_must_have_come_and_ranks_must_have_been_alike() -> None:
    assert find(seen(EQUAL, *[APART] * 5, ddp=False)) is None
    found = find(seen(EQUAL, *[APART] * 5, ddp=False, final=True))
    assert isinstance(found, Finding) and found.severity == "warning"
    assert isinstance(find(seen(*[APART] * 6, ddp=False, final=True)), CannotTell)


def test_a_wrapper_that_is_never_called_had_made_the_ranks_alike() -> None:
    base = seen(*[APART] * 6, ddp=False, final=True)
    held = [replace(r, ranks=tuple(replace(facts, held=True) for facts in r.ranks)) for r in base.rounds]
    assert isinstance(found := find(replace(base, rounds=tuple(held))), Finding) and found.severity == "warning"
    assert find(replace(base, rounds=(*held[:3], replace(held[3], ranks=seen(EQUAL).rounds[0].ranks)))) is None


def test_ranks_that_hold_different_parameters_cannot_be_compared() -> None:
    assert isinstance(find(seen(({"a": 1}, {"b": 1}), ddp=False, final=True)), CannotTell)
    assert isinstance(find(seen(({}, {}))), CannotTell)


def test_one_parameter_apart_is_enough() -> None:
    one = ({"a": 1, "b": 2}, {"a": 1, "b": 5})
    found = find(seen(EQUAL, one, one, one))
    assert isinstance(found, Finding) and found.seen["parameters"] == ["b"]


def test_a_parameter_that_was_reset_on_one_rank_only_now_is_not_judged_yet() -> None:
    base = seen(EQUAL, EQUAL, EQUAL, APART)
    assert find(base) is None
    assert find(replace(base, final=True)) is None


def pulled(*states: tuple[dict[str, int], dict[str, int]], pulls: tuple[int | None, int | None]) -> RanksSeen:
    """Rounds without a wrapper, in which both parameters had gradients of these hashes."""
    base = seen(*states, ddp=False)
    ranks = [tuple(replace(r, pull=pulls[r.rank], graded=("a", "b")) for r in one.ranks) for one in base.rounds]
    return replace(base, rounds=tuple(replace(one, ranks=r) for one, r in zip(base.rounds, ranks, strict=True)))


def test_equal_gradients_on_weights_that_never_were_equal() -> None:
    found = find(pulled(*[APART] * 3, pulls=(7, 7)))
    assert isinstance(found, Finding) and found.severity == "error" and "broadcast" in found.fix
    one = ({"a": 1, "b": 2}, {"a": 1, "b": 5})  # a scale that all inits start at 1
    found = find(pulled(*[one] * 3, pulls=(7, 7)))
    assert isinstance(found, Finding) and found.seen["parameters"] == ["b"]


@pytest.mark.parametrize("pulls", [(7, 8), (7, None), (None, None)])
def test_ranks_with_gradients_of_their_own_train_their_own_models(pulls: tuple[int | None, int | None]) -> None:
    assert isinstance(find(pulled(*[APART] * 4, pulls=pulls)), CannotTell)


def test_equal_gradients_on_equal_weights_are_as_they_should_be() -> None:
    assert find(pulled(*[EQUAL] * 4, pulls=(7, 7))) is None
    assert isinstance(find(pulled(*[APART] * 2, pulls=(7, 7))), CannotTell)
