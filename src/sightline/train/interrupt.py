"""SIGINT and SIGTERM: the step at hand is finished and saved; a second signal ends the process at once."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

REPEATED = 2.0  # seconds: launchers pass on what the terminal or the scheduler has sent to all processes already


class Interrupted(Exception):
    """A run that was asked to stop and has saved itself. `signal` is the number of the signal that asked."""

    def __init__(self, number: int) -> None:
        self.signal = number
        super().__init__(f"stopped by {signal.Signals(number).name}")


class Interrupts:
    """Remembers the first signal. Held back, it is for the training loop to look at; otherwise it acts at once.

    A second one acts at once in any case, unless it follows so closely that it is the first one, sent on.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._held = False
        self._came = 0.0

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self.number is not None

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Inside the block a first signal is only remembered."""
        self._held = True
        try:
            yield
        finally:
            self._held = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._held and self.requested and time.monotonic() - self._came < REPEATED:
            return
        if self.requested or not self._held:
            self.number = number
            raise KeyboardInterrupt
        self.number, self._came = number, time.monotonic()


@contextlib.contextmanager
def watched_signals() -> Iterator[Interrupts]:
    """Take SIGINT and SIGTERM over inside the block (in the main thread; elsewhere they are left alone)."""
    interrupts = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    before = {number: signal.signal(number, interrupts._note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
