"""Whether a model that has its own idea of train mode was ever asked to take it."""

from __future__ import annotations

from typing import Any, ClassVar

from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.guard.probes.call import Call
from sightline.guard.probes.own_mode import overrides, own_mode

AFTER = 2  # optimizer steps: the model is trained as it stands now


class OwnMode(Onlooker):
    """Asks once."""

    shows: ClassVar = ("OwnModeSeen",)

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self._asks = bool(overrides(recorder.model))

    def forward(self, call: Call, output: Any, *, training: bool, measured: bool) -> None:
        """A training forward: the mode is the one that the host trains in."""
        if not self._asks or not training or self.recorder.step < AFTER:
            return
        self._asks = False
        if (seen := own_mode(self.recorder.model, self.recorder.step)) is not None:
            self.recorder.offer(seen)
