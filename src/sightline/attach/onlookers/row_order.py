"""Does what a model makes of a batch come out row by row, as it came, and beside what is made of another input?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor

from sightline.attach.onlookers.matches import TAUGHT, scored, won_by_pairs
from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.attach.prints import part_hashes, texts_each, together
from sightline.guard.evidence import OrdersSeen
from sightline.guard.probes.call import Call, differentiable
from sightline.guard.probes.row_orders import row_orders

LOOKS = (3, 16, 64)  # training forwards that are asked, until one answers: gates that start at zero open in between
VARIED = 0.75  # of the texts of a batch that are different ones: others may be asked of any image
INDEX = 1  # dimensions of an output of whole numbers that may tell the order
Vectors = tuple[Tensor, Tensor | None]  # both sides', or scores of all with all


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
        if self._forwards not in LOOKS:
            return
        self._over = self._forwards >= LOOKS[-1]
        if self._forwards == LOOKS[0]:
            self._ask_repeated(call)
        two = [one for one in self.recorder.parted if _vectors(one[1])]
        if len(two) == 2 and two[0][1].shape == two[1][1].shape:
            self._ask_towers(*two)
        elif (seen := self._orders(call, output)) is None or seen.meets != "pairs":
            self._over = self._over or seen is not None
            if seen is not None and seen.apart:
                self.recorder.offer(seen)
        elif (given := scored(output)) is not None:
            self._ask_loss(seen, given)

    def _ask_repeated(self, call: Call) -> None:
        """Texts that lie image by image in memory, beside images, or features, that were repeated as a whole."""
        parts = part_hashes(call)
        images = [hashes for tensor, hashes in parts if tensor.is_floating_point() and tensor.dim() > 1]
        texts = together([hashes for tensor, hashes in parts if not tensor.is_floating_point()])
        if len(images) != 1 or texts is None or (each := texts_each(parts)) is None:
            return

        def came(values: list[Tensor]) -> None:
            of, asked = (value.tolist() for value in values)
            count = len(of) // each
            whole = of == of[:count] * each and len(set(of)) == count
            if whole and 1 < each != count > 1 and len(set(asked)) >= VARIED * len(asked):
                self._over = True
                one, other = (row % count for row in range(len(of))), (row // each for row in range(len(of)))
                self.recorder.offer(OrdersSeen(step, tuple(one), tuple(other), "repeated"))

        step = self.recorder.step
        self.recorder.mailbox.post([images[0], texts], came)

    def _orders(self, call: Call, output: Any) -> OrdersSeen | None:
        if not call.repeatable:
            return None
        with self.recorder.silence():
            seen = row_orders(call, self.recorder.step)
        return None if seen is None else replace(seen, told=_tells_order(output))

    def _ask_towers(self, one: tuple[Call, Tensor], other: tuple[Call, Tensor]) -> None:
        """Two parts that were called beside each other, each of its own input."""
        left, right = self._orders(*one), self._orders(*other)
        if left is None or right is None or any(seen.meets != "labels" for seen in (left, right)):
            return
        if left.one == right.one:
            self._over = True
        elif len(left.one) == len(right.one):
            self._ask_loss(OrdersSeen(left.step, left.one, right.one, "pairs"), (one[1], other[1]))

    def _ask_loss(self, seen: OrdersSeen, given: Vectors) -> None:
        """Whether it holds those together that come out in the same place."""
        left, right = given

        def came(grad: Tensor) -> None:
            pulls = grad if right is None else grad @ right.detach().to(grad.dtype).T
            self.recorder.mailbox.post([won_by_pairs(-pulls)], lambda values: told(float(values[0])))

        def told(taught: float) -> None:
            if taught >= TAUGHT and not seen.told:
                self._over = True
                self.recorder.offer(seen)

        if len(left) == len(seen.one):
            self.heed(left, came)


def _vectors(output: Any) -> bool:
    """Whether a part gave (B, D), and nothing else."""
    return isinstance(output, Tensor) and output.dim() == 2 and output.shape[1] > 1 and output.requires_grad


def _tells_order(output: Any) -> bool:
    """Whether a model gives whole numbers beside what it learns by: the order of its rows, for whoever called it."""
    parts = output.values() if isinstance(output, dict) else output
    parts = parts if isinstance(output, dict | tuple | list) else getattr(output, "__dict__", {}).values()
    whole = [part for part in parts if isinstance(part, Tensor) and not part.is_floating_point()]
    return bool(differentiable(output)) and any(part.dim() == INDEX for part in whole)
