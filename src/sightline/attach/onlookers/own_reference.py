"""A policy that is its own reference: a hand-written preference loss that never leaves the logarithm of two.

The difference of a policy and itself is zero, and -log sigmoid(0) = ln 2, whatever the pair. So if each step runs the
trained model a second time without gradients, on what it was just trained on, and the loss is ln 2 to the last bits,
the second run stood for the reference.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar
from weakref import WeakSet

from torch import Tensor
from torch.optim import Optimizer

from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.guard.evidence import ReferenceSeen
from sightline.guard.probes.call import Call

STEPS = 8  # in a row: a copy equals its policy before the first step alone, and the loss of anything else varies
EXACT = 1e-6  # float32 rounding of ln 2
FIRST = 64  # steps of an optimizer that were heard, within which it must show: from then on nothing is kept


class OwnReference(Onlooker):
    """Looks for passes without gradients on the tensors of the step's training passes."""

    shows: ClassVar = ("ReferenceSeen",)

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self._trained: set[Any] = set()  # where the tensors lie that the passes of this step were given
        self._bare: set[Any] = set()
        self._steps, self._left = 0, FIRST
        self._optimizers = WeakSet[Optimizer]()

    def forward(self, call: Call, output: Any, *, training: bool, measured: bool) -> None:
        """Note what the pass was given. Which of the two comes first is the host's choice."""
        if self._left:
            places = {(t.data_ptr(), t.shape) for t in _tensors((*call.args, *call.kwargs.values()))}
            (self._trained if training else self._bare).update(places)

    def after_step(self, optimizer: Optimizer, *, measured: bool) -> None:
        """Was it ln 2 again? With a new optimizer another stage begins, such as preferences after examples."""
        if optimizer not in self._optimizers:
            self._optimizers.add(optimizer)
            self._left = FIRST + 1
        self._left = max(0, self._left - 1)
        again = not self._trained.isdisjoint(self._bare)
        loss = self.recorder.stepped[-1][0].loss if again and self.recorder.stepped else None
        self._steps = self._steps + 1 if loss is not None and abs(loss - math.log(2)) <= EXACT else 0
        self._trained.clear()
        self._bare.clear()
        if self._steps == STEPS:
            shared = sum(p.numel() for p in self.recorder.model.parameters() if p.requires_grad)
            self.recorder.offer(ReferenceSeen(self.recorder.step, shared, self.recorder.step - STEPS))


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor) and value.dim():
            yield value
        elif isinstance(value, Mapping):
            yield from _tensors(value.values())
