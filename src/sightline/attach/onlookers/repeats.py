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
        self.rows: Counter[bytes] = Counter()
        self.over = False
        self._again = 0

    def take(self, rows: list[bytes]) -> None:
        """The next batch."""
        known = sum(row in self.rows for row in rows)
        self._again = self._again + len(rows) if known >= OVER * len(rows) else 0
        self.over = self.over or self._again >= ROWS or self.rows.total() >= MOST
        if not self.over:
            self.rows.update(rows)


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
