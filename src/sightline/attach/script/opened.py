"""Notes which images a script opens, in order: a data set made of them may keep no names (see `attach/files.py`)."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Any

from sightline.attach.files import MOST, OPENED
from sightline.attach.script.imports import Notice


def install() -> None:
    """From now on, or from when Pillow is imported."""
    Notice({"PIL.Image": _wrap}).install()


def _wrap() -> None:
    module: Any = sys.modules["PIL.Image"]
    module.open = _noted(module.open)


def _noted(read: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(read)
    def opened(file: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(file, str | os.PathLike) and len(OPENED) < MOST:
            OPENED.append(os.fspath(file))
        return read(file, *args, **kwargs)

    return opened
