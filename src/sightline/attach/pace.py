"""How often to look: measuring may cost a given share of the time that steps take."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

ALWAYS = 5  # the first steps are all measured: most faults show at once
LONGEST = 1000  # steps between two measured ones at most
MEMORY = 0.9  # of the running mean of a step's time: smooth over some ten steps


class Pace:
    """Says which steps are measured. `budget`: share of the step time; from 1.0 on, every step."""

    def __init__(self, budget: float) -> None:
        self._budget = budget
        self._next, self._spent, self._step_time, self._began = 0, 0.0, 0.0, time.perf_counter()

    def measures(self, step: int) -> bool:
        """Whether the step after `step` steps is to be measured."""
        return step < ALWAYS or step >= self._next

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Time spent inside is the guard's."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._spent += time.perf_counter() - start

    def stepped(self, step: int, *, measured: bool) -> None:
        """A step is over: after a measured one, wait for cost / (budget x time of a plain step) steps."""
        now = time.perf_counter()
        own = max(now - self._began - self._spent, 1e-6)
        self._step_time = own if not self._step_time else MEMORY * self._step_time + (1 - MEMORY) * own
        if measured and self._budget < 1:
            wait = math.ceil(self._spent / (self._budget * self._step_time)) if self._budget > 0 else LONGEST
            self._next = step + min(LONGEST, max(1, wait))
        self._began, self._spent = now, 0.0
