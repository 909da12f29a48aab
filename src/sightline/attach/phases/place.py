"""The line of a host's code that runs a model."""

from __future__ import annotations

import dis
import sys
from types import FrameType

OUTSIDE = ("torch.", "sightline.")
Place = tuple[object, int]


def called_from() -> Place:
    """The innermost line that is neither torch's nor ours."""
    frame = _host()
    return (frame.f_code, frame.f_lineno) if frame is not None else (None, 0)


def thrown_away() -> bool:
    """Whether that line makes nothing of what it is given."""
    if (frame := _host()) is None:
        return False
    after = next((one for one in dis.get_instructions(frame.f_code) if one.offset > frame.f_lasti), None)
    return after is not None and (
        after.opname == "POP_TOP" or (after.opname.startswith("STORE") and after.argval == "_")
    )


def _host() -> FrameType | None:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and f"{frame.f_globals.get('__name__', '')}.".startswith(OUTSIDE):
        frame = frame.f_back
    return frame
