"""Listeners beside the recorder: each watches one side of the run, and is told of its steps as they come."""

from __future__ import annotations

from typing import Any, Protocol

from sightline.guard.probes.call import Call


class Listener(Protocol):
    """One side of a run. All calls come from the hot loop: nothing in them may wait for the device.

    Of steps that the guard sleeps through nothing is told, but that it woke.
    """

    def woke(self) -> None:
        """Steps were slept through; whole steps come next."""

    def begins(self) -> None:
        """The first training forward of a step comes next (it may have begun already, where hooks are late)."""

    def trained(self, call: Call, output: Any) -> None:
        """A training forward gave `output`."""

    def stepping(self) -> None:
        """An optimizer's step comes next: the gradients are those that it will use."""

    def stepped(self) -> None:
        """The optimizer's step is over, and counted."""

    def close(self) -> None:
        """The run is over."""


class Beside:
    """All listeners of a recorder."""

    def __init__(self) -> None:
        self.all: tuple[Listener, ...] = ()

    def woke(self) -> None:
        for one in self.all:
            one.woke()

    def begins(self) -> None:
        for one in self.all:
            one.begins()

    def trained(self, call: Call, output: Any) -> None:
        for one in self.all:
            one.trained(call, output)

    def stepping(self) -> None:
        for one in self.all:
            one.stepping()

    def stepped(self) -> None:
        for one in self.all:
            one.stepped()

    def close(self) -> None:
        for one in self.all:
            one.close()
