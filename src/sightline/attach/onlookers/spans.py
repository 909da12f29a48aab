"""Spans of token streams: was the part of a text that a model is judged by also a part of what it was trained on?

Windows that are drawn anywhere in a text are never the same rows twice, so their spans are compared: a sample of those
of three quarters of a window. Batches of an evaluation that overlap each other more than training batches do come from
a smaller part of the text; an estimate of the training loss does not.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sightline.attach.prints import mixed
from sightline.guard.evidence import SharedSpansSeen

SHORTEST = 32  # tokens of a window: spans of shorter ones say too little
SAMPLE = 4  # one span in so many, by its hash: the same ones wherever they stand
ROWS = 4  # of a batch: fewer are a text that is being written
ROUND = 0.5  # of a span's pieces were in it before: no text, but a list or a table that goes round
NEXT = 4  # tokens behind a span that tell one place of a text from another
MOST, KEPT = 200_000, 64  # spans; training batches whose overlaps are counted
OFTEN, SELDOM = 32, 8  # batches of an evaluation that are all looked at; of later ones every so many
FROM = 0.2  # of a training batch's spans are known: before, too little of the text was seen
TWICE, SURE = 2.0, 5.0  # times the overlap of training batches, and standard deviations above it
FACTOR = 0x5851F42D4C957F2D  # odd, of Knuth's generator (MMIX): it has an inverse modulo 2^64
INVERSE = (pow(FACTOR, -1, 1 << 64) + (1 << 63)) % (1 << 64) - (1 << 63)


@dataclass(slots=True)
class Part:
    """An evaluation batch: its spans, and the share of them that was trained on over that of training batches then."""

    spans: Counter[int]
    count: int
    known: float
    usual: float


@dataclass(slots=True)
class Spans:
    """What is kept of both sides."""

    trained: dict[int, int] = field(default_factory=dict)  # span -> a hash of what follows it; 0 where that is unknown
    batches: deque[Counter[int]] = field(default_factory=lambda: deque(maxlen=KEPT))
    shares: deque[float] = field(default_factory=lambda: deque(maxlen=8))
    followed: list[int] = field(default_factory=lambda: [0, 0])  # spans that came again: all, and with another sequel
    width: int | None = None
    rounds: list[list[Part]] = field(default_factory=list)
    at: object = None
    looked: int = 0
    before: Tensor | None = None

    def train(self, values: list[Tensor]) -> None:
        """The ids of a training batch."""
        found = self._of(values)
        if found is None or len(self.trained) >= MOST:
            return
        self.shares.append(sum(span in self.trained for span, _ in found) / max(1, len(found)))
        self.batches.append(Counter(span for span, _ in found))
        for span, sequel in found:
            old = self.trained.get(span)
            if old and sequel:
                self.followed[0] += 1
                self.followed[1] += old != sequel
            self.trained[span] = sequel or old or 0

    def evaluate(self, at: object, values: list[Tensor]) -> None:
        """The ids of a batch of the evaluation `at`."""
        if at != self.at:
            self.at, self.looked = at, 0
            self.rounds.append([])
        self.looked += 1
        usual = sum(self.shares) / max(1, len(self.shares))
        if (self.looked > OFTEN and self.looked % SELDOM) or usual < FROM or self._goes_on(values):
            return
        if found := self._of(values):
            known = sum(span in self.trained for span, _ in found) / len(found)
            self.rounds[-1].append(Part(Counter(span for span, _ in found), len(found), known, usual))

    def seen(self, step: int) -> SharedSpansSeen | None:
        """What the evaluations say, whose batches come from a smaller part of the text than training's."""
        size = _size(self.batches)
        parts = [part for one in self.rounds for part in one]
        if size is None or not parts or self.width is None:
            return None
        small = [part for one in self.rounds for part in _small(one, size)]
        distinct = len(set().union(*(part.spans for part in small)))
        rates = [part.known / part.usual for part in small]
        again, other = self.followed
        return SharedSpansSeen(
            step, self.width * 3 // 4, len(self.trained), len(parts), tuple(rates), distinct, other / max(1, again)
        )

    def _goes_on(self, values: list[Tensor]) -> bool:
        """Whether this batch is the one before and a token more, or moved by one: a text that is being written."""
        ids, old = values[0], self.before
        self.before = ids
        if old is None or len(old) != len(ids):
            return False
        grown = ids.shape[1] == old.shape[1] + 1 and torch.equal(ids[:, :-1], old)
        return grown or (ids.shape == old.shape and torch.equal(ids[:, :-1], old[:, 1:]))

    def _of(self, values: list[Tensor]) -> list[tuple[int, int]] | None:
        """(span, sequel) of each sampled span of each row; None for batches that are no windows of one width."""
        ids = values[0]
        alone = all(other.shape == ids.shape and not other.is_floating_point() for other in values)  # but its targets
        if not alone or ids.dim() != 2 or len(ids) < ROWS:
            return None
        if ids.shape[1] < SHORTEST or self.width not in (None, ids.shape[1]) or bool((ids < 0).any()):
            return None
        self.width = ids.shape[1]
        return [pair for row in _hashed(ids.long(), self.width * 3 // 4) for pair in row]


def _hashed(ids: Tensor, length: int) -> list[list[tuple[int, int]]]:
    """For each row of (B, T) ids: the sampled spans of `length` tokens, and what follows each."""
    spans, sequels = rolling(ids, length), rolling(ids, NEXT)
    chosen = (spans % SAMPLE == 0) & ~_goes_round(sequels, length)
    found = []
    for span, sequel, take in zip(spans.tolist(), sequels.tolist(), chosen.tolist(), strict=True):
        behind = [sequel[at + length] if at + length < len(sequel) else 0 for at in range(len(span))]
        found.append(list({s: b for s, b, t in zip(span, behind, take, strict=True) if t}.items()))
    return found


def _goes_round(pieces: Tensor, length: int) -> Tensor:
    """(B, S) whether a span of `length` tokens says the same again and again, as a list of steps that is gone through
    several times: all rows that do are alike. `pieces` (B, P): hashes of the NEXT tokens from each place on."""
    order = pieces.argsort(dim=1, stable=True)
    found = pieces.gather(1, order)
    near = (found[:, 1:] == found[:, :-1]) & (order[:, 1:] - order[:, :-1] < length)
    again = torch.zeros_like(pieces).scatter(1, order[:, 1:], near.long())
    sums, inside = torch.nn.functional.pad(again.cumsum(1), (1, 0)), length - NEXT + 1
    return sums[:, inside:] - sums[:, :-inside] > ROUND * inside


def rolling(ids: Tensor, length: int) -> Tensor:
    """(B, T - length + 1) int64: a hash of the tokens of each span, wherever it stands: a polynomial modulo 2^64."""
    powers = torch.full((ids.shape[1],), FACTOR).cumprod(0)
    back = torch.full((ids.shape[1] - length + 1,), INVERSE).cumprod(0)
    sums = torch.nn.functional.pad((mixed(ids + 1) * powers).cumsum(1), (1, 0))
    return mixed((sums[:, length:] - sums[:, :-length]) * back)


def _size(batches: deque[Counter[int]]) -> float | None:
    """How many spans training batches are drawn from, by how often they meet; None where they hardly do."""
    total: Counter[int] = Counter()
    for one in batches:
        total.update(one)
    counts = [sum(one.values()) for one in batches]
    pairs = (sum(counts) ** 2 - sum(count**2 for count in counts)) / 2
    met = (sum(n * n for n in total.values()) - sum(n * n for one in batches for n in one.values())) / 2
    return pairs / met if met >= 4 * SURE**2 else None


def _small(parts: list[Part], size: float) -> list[Part]:
    """Those that meet the others of their evaluation, and themselves, far more than draws from `size` spans would."""
    total: Counter[int] = Counter()
    for part in parts:
        total.update(part.spans)
    every, found = sum(part.count for part in parts), []
    for part in parts:
        met = sum(n * (total[span] - n) + n * (n - 1) / 2 for span, n in part.spans.items())
        usual = part.count * (every - part.count / 2) / size
        if met >= TWICE * usual and met - usual >= SURE * usual**0.5 + 2 * SURE:
            found.append(part)
    return found
