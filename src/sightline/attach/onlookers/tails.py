"""Overlapping windows of a stream: does training go on where an evaluated window ends?

Windows are cut from a series of measurements or from a text with a step that is smaller than they are. Split at random,
what follows an evaluated window is inside of a window that was trained on. Split in time, nothing that was trained on
goes on behind its end.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sightline.attach.onlookers.spans import FACTOR, rolling
from sightline.attach.prints import INTEGERS
from sightline.guard.evidence import TailsSeen

SHORTEST = 16  # numbers of a window: fewer say too little
SERIES, TEXT = 4, 2  # a tail is a fourth of a series' window, half of a text's, whose phrases come again
DENSE = 64  # numbers of a window whose spans are all kept; of longer ones a sample, by their hash
FILLED = 1 / 8  # of the rows, which end in a run of one and the same number: they are filled up to a width, not cut
VARIED = 2  # at least one in so many numbers of a tail is another: no blank margin, no padding
MOST, PAIRS = 200_000, 20_000  # spans; pairs of tokens


@dataclass(slots=True)
class Tails:
    """Spans inside of windows that were trained on, and what came behind each; tails of evaluated windows."""

    inside: dict[int, int] = field(default_factory=dict)
    width: int | None = None
    kind: torch.dtype | None = None
    judged: dict[int, bool] = field(default_factory=dict)  # tail -> whether training went on behind it
    again: int = 0  # spans that came again, and with something else behind them
    parted: int = 0
    pairs: dict[int, int] = field(default_factory=dict)  # two tokens of a text, and what came behind them
    met: list[int] = field(default_factory=lambda: [0, 0])  # pairs that came again: all, and with another sequel
    rows: int = 0
    runs: Counter[int] = field(default_factory=Counter)  # rows by the number that they end in twice

    def train(self, values: list[Tensor]) -> None:
        """The windows of a training batch."""
        if len(self.inside) >= MOST or (found := self._of(values)) is None:
            return
        bits, spans, length = found
        self._read(bits)
        self.rows += len(bits)
        self.runs.update(bits[bits[:, -1] == bits[:, -2], -1].tolist())
        spans, sequels = spans[:, :-1], bits[:, length:]
        kept = spans % self._every() == 0  # before they are Python's: there are thousands in a row
        for span, behind in zip(spans[kept].tolist(), sequels[kept].tolist(), strict=True):
            before = self.inside.setdefault(span, behind)
            self.again += 1
            self.parted += before != behind

    def evaluate(self, values: list[Tensor], known: list[bool]) -> None:
        """The windows of an evaluation batch. `known`: those that were trained on themselves."""
        if not self.inside or len(self.judged) >= MOST or (found := self._of(values)) is None:
            return
        bits, spans, length = found
        for tail, end, old in zip(spans[:, -1].tolist(), bits[:, -length:], known, strict=True):
            if not old and tail % self._every() == 0 and VARIED * len(end.unique()) >= length:
                self.judged.setdefault(tail, tail in self.inside)

    def seen(self) -> TailsSeen | None:
        """What was found; None where there were no windows of one width."""
        if self.width is None or not self.judged or max(self.runs.values(), default=0) >= FILLED * self.rows:
            return None
        parted, free = self.parted / max(1, self.again), self.met[1] / max(1, self.met[0])
        free = 1.0 if self.kind is not None and self.kind.is_floating_point else free
        return TailsSeen(self.width, self._length(), len(self.judged), sum(self.judged.values()), parted, free)

    def _read(self, bits: Tensor) -> None:
        """What two tokens of a text in a row tell of the next one."""
        if self.kind is None or self.kind.is_floating_point or len(self.pairs) >= PAIRS:
            return
        twos = (bits[:, :-2] * FACTOR + bits[:, 1:-1]).flatten().tolist()
        for two, behind in zip(twos, bits[:, 2:].flatten().tolist(), strict=True):
            if two in self.pairs:
                self.met[0] += 1
                self.met[1] += self.pairs[two] != behind
            else:
                self.pairs[two] = behind

    def _of(self, values: list[Tensor]) -> tuple[Tensor, Tensor, int] | None:
        """(B, T) bits, (B, T - length + 1) hashes of their spans, and the length; None for what is no such batch."""
        given = values[0]
        if given.shape[1] < SHORTEST or given.dtype is torch.bool or (self.kind or given.dtype) != given.dtype:
            return None
        if self.width not in (None, given.shape[1]) or (not given.is_floating_point() and bool((given < 0).any())):
            return None
        self.width, self.kind = given.shape[1], given.dtype
        bits = given.contiguous().view(INTEGERS[given.element_size()]).long()
        return bits, rolling(bits, self._length()), self._length()

    def _length(self) -> int:
        assert self.width is not None and self.kind is not None
        return self.width // (SERIES if self.kind.is_floating_point else TEXT)

    def _every(self) -> int:
        return max(1, (self.width or 0) // DENSE)


def fuller(one: TailsSeen | None, other: TailsSeen | None) -> TailsSeen | None:
    """Of two readings of the same rows the one in which training goes on behind more of them, and the same way."""
    if one is None or other is None:
        return one or other
    return max(one, other, key=lambda seen: (seen.found / seen.judged, -seen.parted))
