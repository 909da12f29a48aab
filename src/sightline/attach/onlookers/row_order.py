"""Two inputs of a batch, such as pictures and captions: does what is made of both meet row by row?"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from sightline.attach.onlookers.matches import TAUGHT, scored, won
from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.guard.evidence import OrdersSeen
from sightline.guard.probes.call import Call, differentiable
from sightline.guard.probes.row_orders import row_orders

LOOKS = (3, 16, 64)  # training forwards that are asked, until one answers: gates that start at zero open in between
INDEX = 1  # dimensions of an output of whole numbers that may tell the order


class RowOrder(Onlooker):
    """Asks a probe in one of the first batches, and the loss which rows it holds together."""

    shows: ClassVar = ("OrdersSeen",)

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self._forwards, self._over = 0, False

    def forward(self, call: Call, output: Any, *, training: bool, measured: bool) -> None:
        """A training batch."""
        if self._over or not training:
            return
        self._forwards += 1
        if self._forwards not in LOOKS or not call.repeatable:
            return
        with self.recorder.silence():
            seen = row_orders(call, self.recorder.step)
        self._over = seen is not None or self._forwards >= LOOKS[-1]
        if seen is None or not seen.apart or _tells_order(output):
            return
        if seen.together:
            self.recorder.offer(seen)
        else:
            self._ask_loss(seen, output)

    def _ask_loss(self, seen: OrdersSeen, output: Any) -> None:
        """Whether it holds those together that come out in the same place."""
        if (given := scored(output)) is None or len(given[0]) != len(seen.one):
            return
        left, right = given
        done = [False]

        def came(grad: Tensor) -> None:
            if done[0] or self.recorder.muted:
                return
            done[0] = True
            pulls = grad if right is None else grad @ right.detach().to(grad.dtype).T
            self.recorder.mailbox.post([won(-pulls)], lambda values: told(float(values[0])))

        def told(taught: float) -> None:
            if taught >= TAUGHT:
                self.recorder.offer(seen)

        left.register_hook(came)


def _tells_order(output: Any) -> bool:
    """Whether a model gives whole numbers beside what it learns by: the order of its rows, for whoever called it."""
    parts = output.values() if isinstance(output, dict) else output
    parts = parts if isinstance(output, dict | tuple | list) else getattr(output, "__dict__", {}).values()
    whole = [part for part in parts if isinstance(part, Tensor) and not part.is_floating_point()]
    return bool(differentiable(output)) and any(part.dim() == INDEX for part in whole)
