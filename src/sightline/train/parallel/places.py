"""Where in this package a thread is, or an error was met with: what a rank that is waited for is doing."""

from __future__ import annotations

from pathlib import Path
from types import FrameType

PACKAGE = Path(__file__).parents[2]
WAITING = ("presence.py", "places.py")  # a rank that waits for others is where it called for it


def _ours(file: Path) -> bool:
    return file.is_relative_to(PACKAGE) and file.name not in WAITING


def place_in(frame: FrameType | None) -> str:
    """The innermost of this package's lines on the way to `frame`, e.g. "train/step.py:83 train_step"."""
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if _ours(file):
            return f"{file.relative_to(PACKAGE).as_posix()}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return ""


def place_of(error: BaseException) -> str:
    """Where `error` was met with, as `place_in` says it."""
    innermost, trace = "", error.__traceback__
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        if _ours(file):
            innermost = f"{file.relative_to(PACKAGE).as_posix()}:{trace.tb_lineno} {trace.tb_frame.f_code.co_name}"
        trace = trace.tb_next
    return innermost
