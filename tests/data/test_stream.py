"""Stream: every sample once an epoch whatever the shards' sizes, in an order that can be entered anywhere."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from sightline.data import stream as module
from sightline.data.shards import Shard, read_shard
from sightline.data.stream import Stream
from tests.data.test_shards import numbered, write

UNEQUAL = (5, 1, 0, 13, 2, 8)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> tuple[Shard, ...]:
    folder = tmp_path_factory.mktemp("shards")
    made, first = [], 0
    for number, count in enumerate(UNEQUAL):
        made.append(Shard(str(write(folder / f"{number}.tar", numbered(first, count))), count))
        first += count
    return tuple(made)


def drawn(stream: Stream, lane: int, count: int, taken: int = 0) -> list[str]:
    return [sample.key for sample in islice(stream.lane(lane, taken), count)]


def by_epoch(stream: Stream, epochs: int) -> list[list[str]]:
    """Each epoch's keys, in the order of their draw numbers."""
    total = stream.total
    found: dict[int, str] = {}
    for lane in range(stream.lanes):
        for k, key in enumerate(drawn(stream, lane, -(-epochs * total // stream.lanes))):
            found[k * stream.lanes + lane] = key
    return [[found[n] for n in range(epoch * total, (epoch + 1) * total)] for epoch in range(epochs)]


@pytest.mark.parametrize("lanes", [1, 3, 8, 40])
@pytest.mark.parametrize("shuffle", [0, 10, 1000])
def test_every_sample_once_an_epoch(shards: tuple[Shard, ...], lanes: int, shuffle: int) -> None:
    epochs = by_epoch(Stream("mine", shards, 7, lanes, shuffle), 3)
    for epoch in epochs:
        assert Counter(epoch) == Counter(list(numbered(0, sum(UNEQUAL))))
    assert len({tuple(epoch) for epoch in epochs}) == 3  # in another order each time


def test_orders_follow_seed_name_and_epoch(shards: tuple[Shard, ...]) -> None:
    def order(name: str = "mine", seed: int = 7, shuffle: int = 6) -> list[str]:
        return drawn(Stream(name, shards, seed, 1, shuffle), 0, 29)

    assert order() == order()
    assert len({tuple(order()), tuple(order(name="other")), tuple(order(seed=8)), tuple(order(shuffle=5))}) == 4
    stream = Stream("mine", shards, 7, 1, 0)
    shard_orders = [tuple(shard.url for shard in stream.shard_order(epoch)) for epoch in range(4)]
    assert len(set(shard_orders)) == 4


@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("shuffle", [0, 7, 1000])
def test_a_lane_can_be_entered_anywhere(shards: tuple[Shard, ...], lanes: int, shuffle: int) -> None:
    stream = Stream("mine", shards, 3, lanes, shuffle)
    for lane in range(lanes):
        whole = drawn(stream, lane, 60)
        for taken in (*range(1, 9), 28, 29, 30, 45, 58):
            assert drawn(stream, lane, 60 - taken, taken) == whole[taken:]


def test_samples_move_by_less_than_the_reach(tmp_path: Path) -> None:
    shard = Shard(str(write(tmp_path / "a.tar", numbered(0, 400))), 400)
    moves = [int(key) - place for place, key in enumerate(drawn(Stream("mine", (shard,), 0, 1, 50), 0, 400))]
    assert max(map(abs, moves)) < 50 and min(moves) < -20 and max(moves) > 20
    unmoved = drawn(Stream("mine", (shard,), 0, 1, 0), 0, 400)
    assert unmoved == list(numbered(0, 400))


def test_resuming_reads_again_no_more_than_the_reach(
    shards: tuple[Shard, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Counter[str]()

    def counting(shard: Shard, start: int = 0):
        for sample in read_shard(shard, start):
            read[sample.key] += 1
            yield sample

    monkeypatch.setattr(module, "read_shard", counting)
    stream = Stream("mine", shards, 5, 1, 4)
    drawn(stream, 0, 3, taken=20)
    assert sum(read.values()) <= 3 + 2 * 4 + 1  # what is asked, what may stand before it and what may come before it
