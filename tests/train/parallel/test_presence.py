"""Ranks that wait for each other in the store; here they are threads of one process, each with its own clients."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
import torch

from sightline.errors import Elsewhere, UserError
from sightline.train.parallel import presence as module
from sightline.train.parallel.machines import Machine
from sightline.train.parallel.presence import Presence
from sightline.train.parallel.verdict import RanksLost
from tests.ports import free_port

CPU = Machine.here(torch.device("cpu"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short silences, and a place to meet."""
    for name, seconds in {"BEAT": 0.1, "SILENCE": 1.5, "LINGER": 2.0}.items():
        monkeypatch.setattr(module, name, seconds)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))


def ranks(world: int, work: Callable[[Presence], object], *, absent: int = -1, timeout: float = 30.0) -> list[Future]:  # type: ignore[type-arg]
    """What `work` came to on each rank (but on `absent`)."""

    def one(rank: int) -> object:
        presence = Presence(rank, world, CPU, timeout)
        try:
            presence.arrive()
            return work(presence)
        finally:
            presence.leave()

    with ThreadPoolExecutor(world) as pool:
        return [pool.submit(one, rank) for rank in range(world) if rank != absent]


@pytest.mark.slow
def test_ranks_share_a_text_and_wait_for_each_other_longer_than_an_exchange_may_take() -> None:
    began = time.monotonic()

    def work(presence: Presence) -> tuple[str, float]:
        text = presence.share(f"from {presence.rank}")
        if presence.rank == 0:
            time.sleep(2.0)
        presence.barrier()
        return text, time.monotonic() - began

    found = [each.result() for each in ranks(3, work, timeout=1.0)]
    assert [text for text, _ in found] == ["from 0"] * 3 and min(waited for _, waited in found) >= 2.0


def test_a_rank_that_never_arrives_is_named() -> None:
    found = [each.exception() for each in ranks(3, lambda presence: None, absent=1, timeout=1.0)]
    for error in found:
        assert isinstance(error, RanksLost) and "1 of 3 ranks never arrived in 1 s: rank 1;" in str(error)
    assert [isinstance(error, Elsewhere) for error in found] == [False, True]  # one of them tells the user


def test_nobody_where_ranks_meet() -> None:
    (error,) = (each.exception() for each in ranks(2, lambda presence: None, absent=0, timeout=0.5))
    assert isinstance(error, UserError) and "rank 0, which keeps it, never arrived: nobody was at" in str(error)


@pytest.mark.slow
def test_a_rank_that_dies_is_missed_at_a_barrier_and_one_that_lives_is_not() -> None:
    gone = threading.Event()

    def work(presence: Presence) -> None:
        if presence.rank == 1:
            presence._end.set()  # no sign any more, as of a process that was killed
            gone.wait(20)
            return
        try:
            presence.barrier()
        finally:
            gone.set()

    found = [each.exception() for each in ranks(3, work)]
    assert found[1] is None
    for error in (found[0], found[2]):
        assert isinstance(error, RanksLost) and error.verdict.lost == (1,)
        assert "rank 1 (" in str(error) and "does not answer any more" in str(error)
    assert sum(isinstance(error, Elsewhere) for error in (found[0], found[2])) == 1


def test_a_rank_that_stops_for_its_own_reason_is_quoted() -> None:
    def work(presence: Presence) -> BaseException:
        if presence.rank == 1:
            return presence.explained(ValueError("a bad row"))
        return presence.explained(RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer"))

    zero, one, two = (each.result() for each in ranks(3, work))
    assert isinstance(one, ValueError)
    assert str(zero).startswith("parallel: rank 1 stopped: ValueError: a bad row")
    assert isinstance(zero, RanksLost) and not isinstance(zero, Elsewhere) and isinstance(two, Elsewhere)


def test_bad_input_that_all_ranks_meet_is_told_once() -> None:
    found = [
        each.result() for each in ranks(2, lambda presence: presence.explained(UserError("no such row", fix="mend")))
    ]
    assert [str(each) for each in found] == ["no such row\n  fix: mend"] * 2
    assert [isinstance(each, Elsewhere) for each in found] == [False, True]
