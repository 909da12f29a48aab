"""Samples of which a loss teaches each a class: does the model come to tell them apart?"""

from __future__ import annotations

from collections import Counter
from math import exp
from typing import Any, ClassVar

from torch import Tensor

from sightline.attach.classes import Taught, may_teach_classes, won
from sightline.attach.onlookers.matches import GROWTH, VAIN
from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.attach.onlookers.outputs import given_out
from sightline.attach.onlookers.row_inputs import wide_inputs
from sightline.attach.prints import row_hashes
from sightline.attach.structure import structured
from sightline.guard.evidence import MatchesSeen
from sightline.guard.probes.call import Call

HALVINGS = 40  # of the range in which the number of different inputs lies


class Guesses(Onlooker):
    """Reads the classes off the loss's gradient, at steps that thin out, and how samples of others score for them."""

    shows: ClassVar = ("MatchesSeen",)

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self._begin()

    def _begin(self) -> None:
        self._taught, self._vain, self._next = Taught(), 0, 0
        self._found: list[tuple[int, float]] = []
        self._inputs: Counter[int] = Counter()
        self._rows = 0
        self._structured: bool | None = None

    def again(self) -> None:
        """Another stage may teach other classes."""
        self._begin()

    def _due(self, step: int) -> bool:
        return self._vain < VAIN and step >= self._next

    def forward(self, call: Call, output: Any, *, training: bool, measured: bool) -> None:
        """A training batch of samples with a class each."""
        if not training or not self._due(step := self.recorder.step):
            return
        logits, hashes = given_out(output), row_hashes(call)
        if logits is None or hashes is None or not may_teach_classes(logits, len(hashes)):
            self._vain += 1
            return
        if self._structured is None:
            self._structured = structured(wide_inputs(call))
            self._vain = self._vain if self._structured else VAIN
        self._next = max(step + 1, int(step * GROWTH))
        values, taught, found = logits.detach(), self._taught, self._found

        def came(grad: Tensor) -> None:
            self.recorder.mailbox.post([values, grad, hashes], arrived)

        def arrived(all_: list[Tensor]) -> None:
            if found is not self._found:
                return
            share = won(all_[0], taught.classes(all_[0], all_[1]))
            self._vain = self._vain + 1 if share is None else 0
            if share is None:
                return
            if not found:
                self.recorder.pace.also.append(self._due)
            found.append((step, share))
            self._inputs.update(all_[2].tolist())
            self._rows += len(all_[2])

        self.heed(logits, came)

    def close(self, *, broken: bool) -> None:
        """How it went."""
        if self._found and self._structured:
            steps, share = zip(*self._found, strict=True)
            rows = self._rows / len(steps)
            different = total(self._rows, len(self._inputs))
            passes = rows * self.recorder.step / different
            again = self._rows - len(self._inputs)
            step, few = self.recorder.step, len(self._inputs)
            self.recorder.offer(MatchesSeen(step, round(rows), steps, share, again, 0, 0.0, True, few, passes))


def total(drawn: int, different: int) -> float:
    """How many inputs there are, of which so many different ones came among so many draws; at least those."""
    low, high = float(different), 1e9
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if middle * (1 - exp(-drawn / middle)) < different else (low, middle)
    return low
