"""Which class each row was taught: have some classes as many rows as others because their rows were repeated?"""

from __future__ import annotations

from collections import Counter

from torch import Tensor

from sightline.attach.classes import Taught, may_teach_classes
from sightline.attach.onlookers.onlooker import Onlooker
from sightline.attach.onlookers.repeats import Pass

VAIN = 4  # batches in a row whose loss teaches no classes


class RowClasses:
    """Reads classes off the loss's gradient, batch by batch, while the first pass goes on."""

    def __init__(self, trained: Pass) -> None:
        self._pass, self._rows = trained, Counter[tuple[int, bytes]]()
        self._taught, self._vain = Taught(), 0

    def listen(self, onlooker: Onlooker, logits: Tensor | None, count: int) -> list[bytes]:
        """Hear the gradient of a batch; the names of its rows are to be put into the list."""
        names: list[bytes] = []
        wanted = self._pass.twins and not self._pass.over and self._vain < VAIN
        if wanted and logits is not None and may_teach_classes(logits, count):
            box = [logits.detach()]

            def came(grad: Tensor) -> None:
                onlooker.recorder.mailbox.post([box.pop(), grad], lambda values: self._arrived(names, values))

            onlooker.heed(logits, came)
        return names

    def _arrived(self, names: list[bytes], values: list[Tensor]) -> None:
        classes = self._taught.classes(*values)
        self._vain = self._vain + 1 if classes is None else 0
        if classes is not None and len(classes) == len(names) and not self._pass.over:
            self._rows.update(zip(classes, names, strict=True))

    def counted(self) -> tuple[tuple[int, int], ...]:
        """Rows of each class in the batches that were read, and how many different ones."""
        every, different = Counter[int](), Counter[int]()
        for (one, _), times in self._rows.items():
            every[one] += times
            different[one] += 1
        return tuple((every[one], different[one]) for one in sorted(every))
