"""One of several who hear all evaluations of a process."""

from __future__ import annotations

from typing import Any

from sightline.attach.phases.state import Audience, State
from sightline.guard.probes.call import Call


class Beside:
    """Hears them since `install`, beside whoever did before; who is one overrides what it needs, and calls it."""

    def __init__(self) -> None:
        self._others: Audience | None = None

    def install(self) -> None:
        """Notice evaluations, beside whoever does already."""
        self._others, State.audience = State.audience, self

    def close(self) -> None:
        """Nothing is listened to any more."""
        if State.audience is self:
            State.audience = self._others

    def enters(self, state: State) -> None:
        """A model is about to be run, to judge it."""
        if self._others is not None:
            self._others.enters(state)

    def gave(self, state: State, call: Call, output: Any) -> None:
        """It gave `output`."""
        if self._others is not None:
            self._others.gave(state, call, output)

    def over(self, state: State) -> None:
        """Training goes on, or the script says what came out."""
        if self._others is not None:
            self._others.over(state)
