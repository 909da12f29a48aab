"""Metrics of torchmetrics that go on from evaluation to evaluation, because nobody sets them back."""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from sightline.attach.alive import modules_alive
from sightline.attach.hook import Hook
from sightline.attach.phases.state import State
from sightline.attach.script.audience import Beside
from sightline.guard.evidence import UnresetSeen
from sightline.guard.probes.call import Call

LIBRARY = "torchmetrics."
ROUNDS = 6  # evaluations that are followed: a metric that is never set back is so from the second one on


@dataclass(slots=True)
class Counted:
    """Updates of one metric. began, ended: when the last evaluation did; step: in which that was."""

    metric: weakref.ref[nn.Module]
    began: int
    ended: int
    step: int


class Unreset(Beside):
    """All evaluations of the process. `fault`: told of errors of our own."""

    def __init__(self, fault: Callable[[str], None]) -> None:
        super().__init__()
        hook = functools.partial(Hook, fault=lambda error: fault(f"metrics: {type(error).__name__}: {error}"))
        self._rounds, self._open = 0, False
        self._now: dict[int, int] = {}  # of each metric, its updates when this evaluation began
        self._known: dict[int, Counted] = {}
        self._begin, self._end = hook(self._begins), hook(self._ends)

    def gave(self, state: State, call: Call, output: Any) -> None:
        """The first batch of an evaluation was run: nothing of it was counted yet."""
        if not self._open and self._rounds < ROUNDS and "torchmetrics" in sys.modules:
            self._begin()
        super().gave(state, call, output)

    def over(self, state: State) -> None:
        """Training goes on, or the run is over."""
        if self._open:
            self._end(state)
        super().over(state)

    def _begins(self) -> None:
        self._open, self._rounds = True, self._rounds + 1
        # one that was told no number since its last update is not over
        self._now = {id(one): _updates(one) for one in _metrics() if not _updates(one) or one._computed is not None}

    def _ends(self, state: State) -> None:
        self._open = False
        for metric in _metrics():
            began, ended, before = self._now.get(id(metric)), _updates(metric), self._known.get(id(metric))
            if began is None or ended <= began:
                continue
            if before is not None and before.metric() is metric and _goes_on(before, began, ended, state.step):
                state.offer(UnresetSeen(state.step, type(metric).__name__, began, ended - began))
                self._rounds = ROUNDS
                return
            self._known[id(metric)] = Counted(weakref.ref(metric), began, ended, state.step)


def _goes_on(before: Counted, began: int, ended: int, step: int) -> bool:
    """Whether an evaluation of as many batches as the last began where that one ended, some training later."""
    return 0 < began == before.ended and ended - began == before.ended - before.began and step > before.step + 1


def _metrics() -> Iterator[Any]:
    """Those that are set back as torchmetrics does it: a host's own (Lightning's, of each logged value) count on.

    What gathers numbers (the best so far, tokens in all) may do so over a run; only a mean of them is of an evaluation.
    """
    library: Any = sys.modules["torchmetrics"]
    kind, gathers = library.Metric, library.aggregation.BaseAggregator
    every = (one for one in modules_alive() if isinstance(one, kind))
    every = (one for one in every if not isinstance(one, gathers) or type(one) is library.MeanMetric)
    return (one for one in every if type(one).reset is kind.reset or type(one).__module__.startswith(LIBRARY))


def _updates(metric: Any) -> int:
    return int(metric._update_count)
