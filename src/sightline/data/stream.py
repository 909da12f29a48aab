"""Stream: the order in which the samples of a data set's shards are read, as a pure function of seed and position.

An epoch's samples are its shards' in an order of chance, one shard after another, cut into as many pieces as there are
lanes; a piece may begin and end inside a shard. Each lane reads one piece an epoch, and no sample stands in two. So
every sample comes exactly once an epoch, whatever the shards' sizes, and lanes differ by one sample at most.

Within its piece a sample moves by chance, by less than `reach` places: sample q comes at rank of q + reach * u(q), with
u(q) in [0, 1) from a hash. Half of `reach` samples are in memory on average. To begin anywhere, `reach` samples before
that place are read again, and no more: shards before them are not opened.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import accumulate, islice

import torch

from sightline.data.shards import Sample, Shard, read_shard

MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Stream:
    """The samples of `shards` in `lanes`.

    Draw k of lane l is draw number n = k * lanes + l of the data set, and n // total is its epoch.

    Args:
        name: of the data set: two of one stage have orders of their own.
        shuffle: how far a sample may move in its epoch, over all lanes.
    """

    name: str
    shards: tuple[Shard, ...]
    seed: int
    lanes: int
    shuffle: int

    @property
    def total(self) -> int:
        """Samples an epoch."""
        return sum(shard.samples for shard in self.shards)

    def lane(self, lane: int, taken: int = 0) -> Iterator[Sample]:
        """What `lane` reads after its first `taken` samples, epoch after epoch, without end."""
        total = self.total
        while True:
            epoch, place = divmod(taken * self.lanes + lane, total)
            for sample in self._piece(epoch, place % self.lanes, place // self.lanes):
                yield sample
                taken += 1

    def shard_order(self, epoch: int) -> list[Shard]:
        """The order of the shards in `epoch`."""
        generator = torch.Generator().manual_seed(self._hash(f"{epoch}/shards") >> 1)
        return [self.shards[i] for i in torch.randperm(len(self.shards), generator=generator).tolist()]

    def _piece(self, epoch: int, piece: int, start: int) -> Iterator[Sample]:
        """The samples of a piece from the one that comes as number `start` on."""
        whole, rest = divmod(self.total, self.lanes)
        first, size = piece * whole + min(piece, rest), whole + (piece < rest)
        reach = -(-self.shuffle // self.lanes)
        again = max(0, start - reach)  # all samples before this one have come by then
        read = self._read(self.shard_order(epoch), first + again, first + size)
        return islice(_moved(read, again, reach, self._hash(f"{epoch}/{piece}")), start - again, None)

    @staticmethod
    def _read(shards: list[Shard], start: int, end: int) -> Iterator[Sample]:
        """Samples `start` to `end` of the shards laid end to end."""
        ends = list(accumulate(shard.samples for shard in shards))
        for i in range(bisect_right(ends, start), len(shards)):
            first = ends[i] - shards[i].samples
            if first >= end:
                return
            # The last one of a shard is read to the shard's end: that is where a wrong count shows.
            most = None if end >= ends[i] else end - max(start, first)
            yield from islice(read_shard(shards[i], max(0, start - first)), most)

    def _hash(self, what: str) -> int:
        text = f"{self.seed}/{self.name}/{what}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def _moved(samples: Iterator[Sample], start: int, reach: int, seed: int) -> Iterator[Sample]:
    """`samples`, which begin with number `start`, each moved by less than `reach` places."""
    waiting: list[tuple[int, int, Sample]] = []
    for number, sample in enumerate(samples, start):
        while waiting and waiting[0][0] < number << 32:  # no later sample can come before it
            yield heappop(waiting)[2]
        heappush(waiting, ((number << 32) + reach * (_mixed(seed + number) >> 32), number, sample))
    while waiting:
        yield heappop(waiting)[2]


def _mixed(state: int) -> int:
    """64 well-mixed bits of a counter (SplitMix64: Steele, Lea & Flood 2014, doi 10.1145/2660193.2660195)."""
    state = (state * 0x9E3779B97F4A7C15) & MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
    return state ^ (state >> 31)
