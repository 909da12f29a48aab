"""Rows of words with padding, whose mask may say the reverse of what it is to say."""

from __future__ import annotations

from typing import Any, ClassVar

from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.guard.probes.call import Call
from sightline.guard.probes.turned import padding_of, turned

LOOKS = 8  # batches that are looked at for padding
TOLD = 2  # of them that answer, one way or the other


class TurnedMask(Onlooker):
    """Asks a probe in a few of the first measured batches."""

    shows: ClassVar = ("PaddingSeen",)
    measured_only: ClassVar = True

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self._looks, self._told = LOOKS, TOLD

    def forward(self, call: Call, output: Any, *, training: bool, measured: bool) -> None:
        """A training batch of token ids."""
        if not training or self._looks <= 0 or self._told <= 0:
            return
        self._looks -= 1
        if (real := padding_of(call)) is None:
            return
        with self.recorder.silence():
            seen = turned(call, real, self.recorder.step)
        self._told -= seen is not None
        if seen is not None and seen.turned:
            self._told = 0
            self.recorder.offer(seen)
