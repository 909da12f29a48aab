"""Ranks that wait for each other for ever."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StuckRank:
    """A rank that has not moved for long: after `step` optimizer steps it waits in `call`, called at `line`.

    `beat` counts how often it has said so.
    """

    rank: int
    step: int
    call: str
    line: str
    beat: int = 0


@dataclass(frozen=True, slots=True)
class RanksStuckSeen:
    """All ranks wait at the same time, this one for `seconds`."""

    step: int
    seconds: float
    ranks: tuple[StuckRank, ...]
