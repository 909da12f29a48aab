"""A generator and its critic: who makes what another model is given in place of data, and learns through it.

What a generator gives without gradients is a sample to look at, of nothing that could be right: it is drawn in the
mode in which the critic knows it (batch norm among its own), in the first of these networks and in most since.
"""

from __future__ import annotations

from collections import deque
from typing import Any, ClassVar
from weakref import ref

from torch import Tensor

from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.guard.probes.call import Call
from sightline.guard.probes.fields import leaves

LOOKS = 64  # training forwards of a model: each turn of the loop has them all
MADE: deque[tuple[Any, Any]] = deque(maxlen=8)  # outputs of any model, and its onlooker; held by nobody for this


class Critic(Onlooker):
    """`imitates`: another model, which has seen data of the same shape, passed gradients on to this one."""

    shows: ClassVar = ("EvaluationSeen",)

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self.imitates = False
        self._looks = 0
        self._data: set[tuple[int, ...]] = set()  # shapes of one sample of what had no graph behind it

    def forward(self, call: Call, output: Any, *, training: bool, measured: bool) -> None:
        """What this model is given, and what it makes of it."""
        if not training or self._looks == LOOKS:
            return
        self._looks += 1
        for value in leaves(call.args, call.kwargs).values():
            if not value.is_floating_point() or value.dim() < 2:
                continue
            if value.grad_fn is None:
                self._data.add(tuple(value.shape[1:]))
            elif tuple(value.shape[1:]) in self._data:
                for made, maker in MADE:
                    if made() is value and (one := maker()) is not None and one is not self:
                        one.imitates = True
        if isinstance(output, Tensor) and output.requires_grad:
            MADE.append((ref(output), ref(self)))
