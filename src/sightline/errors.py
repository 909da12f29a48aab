"""The one error a user is meant to read: what was wrong, where, and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input. The command line prints it without a traceback and exits with status 2.

    Args:
        what: what was wrong, in one sentence, with the value that was seen.
        where: file, row or key, e.g. ``train.json row 17`` or ``stages.align.lr``.
        fix: what to do, naming the exact key, flag or command.
    """

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        self.what, self.where, self.fix = what, where, fix
        place = f"{where}: " if where else ""
        remedy = f"\n  fix: {fix}" if fix else ""
        super().__init__(f"{place}{what}{remedy}")


class Elsewhere(UserError):
    """What another process of the same run tells the user; this one only ends with its status."""


class NotAScript(UserError):
    """What was to be run is no script or module."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint for a misspelt ``word``: the nearest known name, else the list of them all."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(names)}"
