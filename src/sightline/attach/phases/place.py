"""The line of a host's code that runs a model."""

from __future__ import annotations

import sys
from types import FrameType

OUTSIDE = ("torch.", "sightline.")
Place = tuple[object, int]


def called_from() -> Place:
    """The innermost line that is neither torch's nor ours."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and f"{frame.f_globals.get('__name__', '')}.".startswith(OUTSIDE):
        frame = frame.f_back
    return (frame.f_code, frame.f_lineno) if frame is not None else (None, 0)
