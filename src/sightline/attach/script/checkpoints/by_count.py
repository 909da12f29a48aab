"""A rate that is set by a count of the script's own, which a resumed run did not get, where rows are drawn at random.

Windows of a long text are hardly ever those of one earlier batch, so that the first step does not tell a resume. Some
of them come again in a while. Nothing is said before that, nor where a number goes on from the file's.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer

from sightline.attach.script.again import Print
from sightline.attach.script.checkpoints.contents import moments_among
from sightline.attach.script.checkpoints.counters import STEPS, Counters
from sightline.attach.script.watch import Watched
from sightline.guard.evidence import ResumeSeen

LONG = 64  # steps until it is given up
AGAIN = 2  # rows that are no chance
BESIDE = 1  # of the steps that were taken: a count may be of the last one or of the next


@dataclass(eq=False)
class Run:
    """A run that begins its rates anew. `rows`: fed until the save."""

    one: Watched
    seen: ResumeSeen
    rows: frozenset[int]
    optimizer: weakref.ref[Optimizer]
    counters: Counters
    steps: int = 0


class ByCount:
    """Follows one such run at a time."""

    def __init__(self) -> None:
        self._run: Run | None = None

    @property
    def waiting(self) -> bool:
        """Whether steps are to be heard."""
        return self._run is not None

    def begins(
        self,
        one: Watched,
        optimizer: Optimizer,
        seen: ResumeSeen,
        counts: Iterable[Any],
        known: frozenset[Print],
        rows: frozenset[int],
        steps: int,
    ) -> None:
        """`one` is about to take its first step. `counts`, `known`: numbers in what it was read from, or beside it, and
        its tensors; `steps`: taken when that was saved.

        Followed if these steps are counted there, and its moments came back number for number.
        """
        numbers = {value for value in counts if type(value) is int and abs(value - steps) <= BESIDE}
        if numbers and moments_among(optimizer, known):
            counters = Counters(frozenset(numbers), frozenset())
            self._run = Run(one, seen, rows, weakref.ref(optimizer), counters)

    def ends(self) -> None:
        """It is known already."""
        self._run = None

    def stepping(self, optimizer: Optimizer) -> None:
        """An optimizer steps: is it fed what was fed before, by now?"""
        run = self._run
        if run is None or run.optimizer() not in (optimizer, None):
            return
        run.counters.stepped()
        run.steps += 1
        if run.one.attachment is None or run.counters.rising or run.steps > LONG or run.optimizer() is None:
            self._run = None
        elif run.steps >= STEPS:
            fed = [batch for batch in run.one.attachment.loading.fed if batch.step >= run.seen.step]
            if len({row for batch in fed for row in batch.inputs} & run.rows) >= AGAIN:
                self._run = None
                run.one.attachment.show(run.seen)
