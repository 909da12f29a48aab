"""How often each row is there, in one pass over what is trained on and one over what is evaluated.

Only a pass shows it: in a second one, every row comes again. So training counts while all its batches are seen, from
the first on, and either side until hardly any row is new.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from sightline.guard.evidence import RepeatsSeen

OVER = 0.9  # of a batch's rows were there before: the pass is over
ROWS = 8  # rows of such batches that say so: one alone is often a repetition
MOST = 20_000  # rows of either kind


class Pass:
    """The rows of one pass, counted."""

    def __init__(self) -> None:
        self.over = False
        self.twins = 0  # pairs of equal rows, as long as the pass surely went on
        self._rows: Counter[bytes] = Counter()
        self._again: list[bytes] = []  # rows of the last batches, which all were known: repetitions, or the next pass

    @property
    def rows(self) -> Counter[bytes]:
        """How often each was there."""
        return self._rows if self.over else self._rows + Counter(self._again)

    @property
    def pairs(self) -> int:
        """Pairs of rows, as long as the pass surely went on."""
        return self._rows.total() * (self._rows.total() - 1) // 2

    def take(self, rows: list[bytes]) -> None:
        """The next batch."""
        if self.over:
            return
        known = sum(row in self._rows for row in rows)
        self._again += rows
        if known < OVER * len(rows):
            for row in self._again:
                self.twins += self._rows[row]
                self._rows[row] += 1
            self._again = []
        self.over = len(self._again) >= ROWS or self._rows.total() >= MOST


class Repeats:
    """Training's first batches, and the first evaluation."""

    def __init__(self) -> None:
        self.trained, self.evaluated = Pass(), Pass()
        self._at: int | None = None

    def train(self, rows: list[bytes], *, whole: bool) -> None:
        """A training batch. `whole`: so far, every batch was hashed."""
        self.trained.over = self.trained.over or not whole
        self.trained.take(rows)

    def evaluate(self, at: int, rows: list[bytes]) -> None:
        """A batch of the evaluation `at`."""
        if self._at is None:
            self._at = at
        if at == self._at:
            self.evaluated.take(rows)

    def over(self, step: int, *, whole: bool) -> bool:
        """Whether nothing more will be counted at this step. `whole`: so far, every training batch was hashed."""
        return self._at is not None and step > self._at and (self.trained.over or not whole)

    def seen(self) -> RepeatsSeen | None:
        """What both show together."""
        return counted(self.trained.rows, self.evaluated.rows)


def counted(ours: Counter[Any], others: Counter[Any]) -> RepeatsSeen | None:
    """The rows of training's pass beside those of an evaluation's."""
    if not ours or not others:
        return None
    both = ours + others
    sizes, judged_of = Counter(both.values()), Counter[int]()
    for row, times in others.items():
        judged_of[both[row]] += times
    span = range(1, max(sizes) + 1)
    return RepeatsSeen(
        drawn=ours.total(),
        judged=others.total(),
        sizes=tuple(sizes[size] for size in span),
        judged_of=tuple(judged_of[size] for size in span),
        drawn_twins=equal_pairs(ours),
        judged_twins=equal_pairs(others),
        twins=sum(times * ours[row] for row, times in others.items()),
    )


def equal_pairs(rows: Counter[Any]) -> int:
    """Of all pairs of rows: one that is there four times makes six."""
    return sum(count * (count - 1) // 2 for count in rows.values())
