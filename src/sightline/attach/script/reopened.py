"""Notes which files a script opens to read, by Python's own audit: numpy, Pillow, torch and zipfile open theirs so."""

from __future__ import annotations

import sys
from typing import Any

from sightline.attach.reopened import MOST, TIMES


def install() -> None:
    """From now on; an audit hook stays for good."""
    sys.addaudithook(_heard)


def _heard(event: str, args: tuple[Any, ...]) -> None:
    if event == "open" and args[1] in ("r", "rb") and isinstance(args[0], str) and len(TIMES) < MOST:
        TIMES[args[0]] += 1
