"""Hears calls of a script's own functions, for as long as it is told to listen. Nothing of the functions is changed.

From Python 3.12 on by `sys.monitoring`, which is told of the wanted functions alone; before, by the profile function of
the main thread, which Python calls at each call and return: so it is only there while the script itself is at work
between forward passes, and goes when it was called too often.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from time import perf_counter
from types import CodeType, FrameType
from typing import Any

TOOL = 4  # of sys.monitoring's six: 0, 1, 2 and 5 are for debuggers, coverage, profilers and optimizers
EACH = 0.3e-6  # seconds that Python takes to tell us of a call
SHARE = 0.1  # of the time that is listened through, beyond what is free
FREE = 100_000  # calls and returns, 30 ms

Wanted = Callable[[CodeType], bool]
Began = Callable[[FrameType], Any]
Ended = Callable[[Any, Any], None]


class Profiled:
    """`began` is told of the frame of each call of a wanted function; what it gives, of what the function returned.

    What it gives is None where nobody wants to know. All three must not raise.
    """

    def __init__(self, wanted: Wanted, began: Began, ended: Ended) -> None:
        self._wanted, self._began, self._ended = wanted, began, ended
        self._known: dict[CodeType, bool] = {}
        self._open: list[tuple[FrameType, Any]] = []
        self._told, self._since = 0, 0.0
        self._mine = self._event
        os.register_at_fork(after_in_child=self.pause)

    def start(self) -> None:
        """A stretch of listening begins: what was heard in the last one is over."""
        self._told, self._since, self._open = 0, perf_counter(), []
        self.resume()

    def resume(self) -> None:
        """Listen, in the main thread, unless somebody else profiles or this stretch has cost enough."""
        here = threading.current_thread() is threading.main_thread()
        if here and sys.getprofile() is None and not self._spent():
            sys.setprofile(self._mine)

    def pause(self) -> None:
        """Do not listen for a while."""
        if sys.getprofile() is self._mine:
            sys.setprofile(None)

    def close(self) -> None:
        """Nothing more is heard."""
        self.pause()
        self._open = []

    def _spent(self) -> bool:
        return self._told > FREE and self._told * EACH > SHARE * (perf_counter() - self._since)

    def _event(self, frame: FrameType, event: str, value: Any) -> None:
        self._told += 1
        if event == "call":
            code = frame.f_code
            known = self._known.get(code)
            if known is None:
                known = self._known[code] = self._wanted(code)
            if known and (token := self._began(frame)) is not None:
                self._open.append((frame, token))
        elif event == "return" and self._open and self._open[-1][0] is frame:
            self._ended(self._open.pop()[1], value)
        if not self._told % 4096 and self._spent():
            self.pause()


class Monitored:
    """The same with `sys.monitoring`: calls of other functions are told once each, and then cost nothing."""

    def __init__(self, wanted: Wanted, began: Began, ended: Ended) -> None:
        self._wanted, self._began, self._ended = wanted, began, ended
        self._events: Any = sys.monitoring  # type: ignore[attr-defined]
        self._known: dict[CodeType, bool] = {}
        self._open: list[tuple[FrameType, Any]] = []
        self._mine = self._listening = False

    def start(self) -> None:
        """A stretch of listening begins: what was heard in the last one is over."""
        self._open = []
        self.resume()

    def resume(self) -> None:
        """Listen, unless other tools have taken our place."""
        events = self._events
        if not self._mine:
            if events.get_tool(TOOL) is not None:
                return
            events.use_tool_id(TOOL, "sightline")
            events.register_callback(TOOL, events.events.PY_START, self._start)
            events.register_callback(TOOL, events.events.PY_RETURN, self._return)
            self._mine = True
        if not self._listening:
            events.set_events(TOOL, events.events.PY_START)
            self._listening = True

    def pause(self) -> None:
        """Do not listen for a while."""
        if self._listening:
            self._events.set_events(TOOL, self._events.events.NO_EVENTS)
            self._listening = False

    def close(self) -> None:
        """Nothing more is heard."""
        self.pause()
        self._open = []
        if self._mine:
            nothing = self._events.events.NO_EVENTS
            for code in [code for code, known in self._known.items() if known]:
                self._events.set_local_events(TOOL, code, nothing)
            for event in (self._events.events.PY_START, self._events.events.PY_RETURN):
                self._events.register_callback(TOOL, event, None)
            self._events.free_tool_id(TOOL)
            self._mine = False
            self._known.clear()

    def _start(self, code: CodeType, offset: int) -> Any:
        known = self._known.get(code)
        if known is None:
            known = self._known[code] = self._wanted(code)
            if known:
                self._events.set_local_events(TOOL, code, self._events.events.PY_RETURN)
        if not known:
            return self._events.DISABLE
        if threading.current_thread() is threading.main_thread():
            frame = sys._getframe(1)
            if frame.f_code is code and (token := self._began(frame)) is not None:
                self._open.append((frame, token))
        return None

    def _return(self, code: CodeType, offset: int, value: Any) -> None:
        frame = sys._getframe(1)
        if any(frame is one for one, _ in self._open):
            while self._open[-1][0] is not frame:  # that one raised
                self._open.pop()
            self._ended(self._open.pop()[1], value)


def listener(wanted: Wanted, began: Began, ended: Ended) -> Profiled | Monitored:
    """What this Python offers."""
    return (Monitored if hasattr(sys, "monitoring") else Profiled)(wanted, began, ended)
