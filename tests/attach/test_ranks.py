"""What ranks tell each other: through a store, in time or not at all, and one report of all."""

from __future__ import annotations

import os
import time
from datetime import timedelta

import torch.distributed as dist

from sightline.attach.ranks import Ranks, gathered, joined, merged


def record(kind: str, check: str = "some-fault", **more: object) -> dict[str, object]:
    return {"kind": kind, "check": check, "code": "Z1", **more}


def pair() -> tuple[Ranks, Ranks]:
    store = dist.HashStore()
    return Ranks(store, 0, 2), Ranks(store, 1, 2)


def test_all_is_known_when_all_have_written() -> None:
    one, other = pair()
    one.put("facts", {"a": 1})
    assert one.all("facts") is None and one.those("facts") == {0: {"a": 1}}
    other.put("facts", [2])
    assert one.all("facts") == other.all("facts") == {0: {"a": 1}, 1: [2]}


def test_waiting_ends() -> None:
    one, _ = pair()
    began = time.monotonic()
    assert one.all("never", timeout=0.1) is None
    assert 0.1 <= time.monotonic() - began < 1


def test_a_store_that_is_gone_is_no_error() -> None:
    told, tell = os.pipe()
    end, ending = os.pipe()
    if (keeper := os.fork()) == 0:  # the rank that keeps the store, and dies
        server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        os.write(tell, str(server.port).encode())
        os.read(end, 1)
        os._exit(0)
    port = int(os.read(told, 16))
    ranks = Ranks(dist.TCPStore("127.0.0.1", port, is_master=False, timeout=timedelta(seconds=2)), 1, 2)
    assert ranks.put("facts", 1) and ranks.those("facts") == {1: 1}
    os.write(ending, b"!")
    os.waitpid(keeper, 0)
    assert ranks.those("facts", timeout=0.2) == {}
    assert not all([ranks.put("facts", 2), ranks.put("facts", 3)])  # a first write may still fit the socket's buffer


def test_one_rank_is_all_there_is() -> None:
    assert joined() is None
    assert gathered([record("passed", times=1)]) == {0: [record("passed", times=1)]}


def test_rank_0_gathers_and_misses_a_dead_rank() -> None:
    one, other = pair()
    assert gathered([record("not-run", why="w")], other) is None
    assert gathered([record("passed", times=2)], one, timeout=0.1) == {
        0: [record("passed", times=2)],
        1: [record("not-run", why="w")],
    }
    assert gathered([record("passed", times=2)], one, name="again", timeout=0.1) == {0: [record("passed", times=2)]}


def test_the_strongest_verdict_of_any_rank_counts() -> None:
    warning, error = record("finding", severity="warning", times=1), record("finding", severity="error", times=3)
    (one,) = merged({0: [warning], 1: [record("passed", times=9)], 2: [error]})
    assert one["severity"] == "error" and one["ranks"] == [0, 2] and one["times"] == 4
    assert merged({0: [record("not-run", why="w")], 1: [record("passed", times=5)]}) == [record("passed", times=5)]
    assert merged({0: [record("not-run", why="w")], 1: [record("not-run", why="v")]}) == [record("not-run", why="w")]


def test_a_run_of_one_rank_says_nothing_of_ranks() -> None:
    finding = record("finding", severity="note", times=1)
    assert merged({0: [finding]}) == [finding]
