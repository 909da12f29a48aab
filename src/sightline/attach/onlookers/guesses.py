"""Samples of which a loss teaches each a class: does the model come to tell them apart?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import exp
from typing import Any, ClassVar

import torch
from torch import Tensor

from sightline.attach.classes import Taught, may_teach_classes
from sightline.attach.onlookers.matches import GROWTH, VAIN, won
from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.attach.onlookers.outputs import given_out
from sightline.attach.onlookers.row_inputs import wide_inputs
from sightline.attach.prints import row_hashes
from sightline.attach.structure import structured, thinned
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
        self._asked = self._structured = False

    def again(self) -> None:
        """Another stage may teach other classes."""
        self._begin()

    def _due(self, step: int) -> bool:
        return self._vain < VAIN and step >= self._next

    def forward(self, call: Call, output: Any, *, training: bool, measured: bool) -> None:
        """A training batch of samples with a class each."""
        if not training or not self._due(step := self.recorder.step):
            return
        logits = given_out(output)
        call = self.recorder.opened or call
        hashes = row_hashes(call) if logits is not None and may_teach_classes(logits, len(logits)) else None
        if logits is None or hashes is None or len(hashes) != len(logits) or call.of_graph:
            self._vain += 1
            return
        if not self._asked:
            self._asked = True
            self.recorder.mailbox.post([thinned(one) for one in wide_inputs(call)], self._inputs_came)
        self._next = max(step + 1, int(step * GROWTH))
        values, taught, found = logits.detach(), self._taught, self._found

        def came(grad: Tensor) -> None:
            self.recorder.mailbox.post([values, grad, hashes], arrived)

        def arrived(all_: list[Tensor]) -> None:
            if found is not self._found:
                return
            share = won_by_classes(all_[0], taught.classes(all_[0], all_[1]))
            self._vain = self._vain + 1 if share is None else 0
            if share is None:
                return
            if not found:
                self.recorder.pace.also.append(self._due)
            found.append((step, share))
            self._inputs.update(all_[2].tolist())
            self._rows += len(all_[2])

        self.heed(logits, came)

    def _inputs_came(self, inputs: list[Tensor]) -> None:
        """Those of the first batch: of noise nothing is told."""
        self._structured = structured(inputs)
        self._vain = self._vain if self._structured else VAIN

    def close(self, *, broken: bool) -> None:
        """How it went."""
        if self._found and self._structured:
            steps, share = zip(*self._found, strict=True)
            rows, step, different = self._rows / len(steps), self.recorder.step, len(self._inputs)
            self.recorder.offer(
                MatchesSeen(
                    step,
                    round(rows),
                    steps,
                    share,
                    again=self._rows - different,
                    kept=0,
                    expected=0.0,
                    natural=True,
                    different=different,
                    passes=rows * step / total(self._rows, different),
                )
            )


def won_by_classes(logits: Tensor, classes: Sequence[int] | None) -> float | None:
    """The share of the samples of other classes that score below a sample for its own class: 0.5 by chance.

    None where nothing is taught, or one class alone.
    """
    if classes is None or len(set(classes)) < 2:
        return None
    at, z = torch.tensor(classes), logits.float().reshape(len(classes), -1)
    if z.shape[1] == 1:
        z = torch.cat([-z, z], dim=1)
    scores = z[:, at].T  # for the class of sample i, what each sample j has
    return float(won(scores.diagonal(), scores, at[:, None] != at))


def total(drawn: int, different: int) -> float:
    """How many inputs there are, of which so many different ones came among so many draws; at least those."""
    low, high = float(different), 1e9
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if middle * (1 - exp(-drawn / middle)) < different else (low, middle)
    return low
