"""Rows that are read at the last place of their batch, padding or not: sentence embeddings, rewards, classes."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.guard.probes.call import Call
from sightline.guard.probes.padded import real_tokens
from sightline.guard.probes.padding import side_of
from sightline.guard.probes.pooled import last_alone, pooled, pulled, read_inside, states_of

LOOKS = 16  # batches that are looked at: most are padded, and all are read alike
INSIDE = 2  # of them by a pass of our own, where the model keeps its states to itself


class LastPlace(Onlooker):
    """Reads off the gradient of the states which places count, and compares padded rows with themselves alone."""

    shows: ClassVar = ("PaddingSeen",)
    measured_only: ClassVar = True

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self._looks, self._inside = LOOKS, INSIDE

    def again(self) -> None:
        """Another stage may have other data."""
        if self._looks >= 0:
            self._looks, self._inside = LOOKS, INSIDE

    def forward(self, call: Call, output: Any, *, training: bool, measured: bool) -> None:
        """A training batch of token ids with padding at the right."""
        if not training or self._looks <= 0:
            return
        self._looks -= 1
        if (mask := real_tokens(call)) is None or side_of(mask) != "right":
            return
        given = states_of(output, mask.shape)
        if given is not None and given.requires_grad:
            step = self.recorder.step

            def came(grad: Tensor) -> None:
                self.recorder.mailbox.post([pulled(grad)], lambda values: self._came(values[0], mask, call, step))

            self.heed(given, came)
        elif given is None and self._inside > 0:
            self._inside -= 1
            with self.recorder.silence():
                read = read_inside(call, mask.shape)
            if read is not None:
                self._came(read, mask, call, self.recorder.step)

    def _came(self, read: Tensor, mask: Tensor, call: Call, step: int) -> None:
        if self._looks < 0 or not last_alone(read.cpu(), mask.cpu()):
            return
        with self.recorder.silence():
            seen = pooled(call, mask, step)
        if seen is not None:
            self._looks = -1
            self.recorder.offer(seen)
