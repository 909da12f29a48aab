"""Training forwards that give NaN and are left out, as `if not isfinite(loss): continue` does it, batch after batch.

No backward pass comes back to such a forward, but neither does one to a forward that is for something else. So nothing
is looked at until the first forward is left alone in a loop that trains; from then on each gives one flag, which is
read when its step is over. A few that were NaN are run once more: what their own batch does to the model it does again.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.guard.evidence import LeftOutSeen
from sightline.guard.probes.call import Call, differentiable
from sightline.guard.probes.non_finite import first_non_finite, unsound

AHEAD = 4  # forwards of one step that may wait for their backward pass: after more they count as left alone
OUTPUTS = 4  # tensors of an output that are looked at
ASKED = 3  # forwards that are run once more
TOLD = 64  # left-out batches that are told one by one; afterwards at the end
Waiting = tuple[set[int], Tensor, Call]


class LeftOut(Onlooker):
    """Counts forwards that were NaN and that nobody trained on."""

    shows: ClassVar = ("LeftOutSeen",)

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self._on = False
        self._waiting: list[Waiting] = []
        self._forwards = self._trained = self._left = self._asked = self._again = 0
        self._spoiled = False
        self._origin: str | None = None

    def forward(self, call: Call, output: Any, *, training: bool, measured: bool) -> None:
        """A forward of a step that is heard."""
        step = self.recorder.open_step
        if not training or step is None or not step.begun:
            return
        if not self._on:
            self._on = len(step.begun) > AHEAD and not any(step.begun)
            return
        tensors = [t for t in differentiable(output) if t.is_floating_point()][:OUTPUTS]
        if not tensors or any(begun is step.begun[-1] for begun, *_ in self._waiting):
            return
        self._forwards += 1
        with torch.no_grad():
            where = tensors[0].device
            flag = torch.stack([unsound(t[..., :1] if t.dim() > 1 else t).to(where) for t in tensors]).any()
        self._settle(keep=AHEAD - 1)
        self._waiting.append((step.begun[-1], flag, call))

    def after_step(self, optimizer: Optimizer, *, measured: bool) -> None:
        """The step is over: what no backward pass came to by now is left out."""
        if self._on:
            self._settle()
            return
        step = self.recorder.stepped[-1][0]
        self._on = any(step.begun) and not all(step.begun)

    def close(self, *, broken: bool) -> None:
        """What is still open, and all that was not told."""
        self._settle(keep=1 if broken else 0)
        self._waiting = []
        self.recorder.mailbox.open(wait=True)
        if self._left > TOLD:
            self._tell()

    def _settle(self, keep: int = 0) -> None:
        """Those that a backward pass came to are done with, and so are the oldest that are too many."""
        self._trained += sum(1 for begun, *_ in self._waiting if begun)
        self._waiting = [one for one in self._waiting if not one[0]]
        while len(self._waiting) > keep:
            _, flag, call = self._waiting.pop(0)
            self.recorder.mailbox.post([flag], partial(self._came, call))

    def _came(self, call: Call, values: list[Tensor]) -> None:
        if not bool(values[0]):
            return
        self._left += 1
        if self._asked < ASKED and call.repeatable:
            self._asked += 1
            with self.recorder.silence():
                self._origin = first_non_finite(call)
            self._again += self._origin is not None
            self._spoiled = any(bool(p.isnan().any()) for p in call.model.parameters())
        if self._left <= TOLD:
            self._tell()

    def _tell(self) -> None:
        counts = self._forwards, self._trained, self._left, self._asked, self._again
        self.recorder.offer(LeftOutSeen(self.recorder.step, *counts, self._spoiled, self._origin))
