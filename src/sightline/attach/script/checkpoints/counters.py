"""Counts of a script that go on from numbers which it read: of its steps or epochs, wherever it keeps them.

What begins at such a number, and rises by one with each epoch or by the same with each step, counts on from it. A fresh
count begins at 0 or 1, sums of samples rise by more than they began with, and numbers of hits rise unevenly.
"""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

OWN = tuple(str(folder) + os.sep for folder in (Path(__file__).parents[2], *torch.__path__))
LEAST = 2  # what a count that goes on begins with: fresh ones begin with less
STEPS = 8  # in a row in which a count rises by the same
EPOCHS = 3  # of the same few steps, where the file does not tell how many there were before; long ones one less
FRAMES, HELD = 32, 512  # functions that call each other, and what each of them knows, at most
LONG = 4096  # steps that a count is followed
Place = tuple[Any, str, str]  # a function or module, a name in it, and one in the object of that name, if any
NO_COUNTS = (torch.Tensor, type, types.ModuleType, types.FunctionType)


@dataclass(slots=True)
class Count:
    """One number of a script. `rises`: after how many steps it changed, and by how much."""

    first: int
    now: int
    rises: list[tuple[int, int]] = field(default_factory=list)


class Counters:
    """Follows what began at one of `numbers`, or one higher. `taken`: how many steps there may have been before."""

    def __init__(self, numbers: frozenset[int], taken: frozenset[int]) -> None:
        self._taken = taken
        near = {number + more for number in numbers for more in (0, 1)}
        begun = {place: value for place, value in _numbers() if value >= LEAST and value in near}
        self._counts = {place: Count(value, value) for place, value in begun.items()}
        self._steps = 0

    @property
    def waiting(self) -> bool:
        """Whether there is anything left to follow."""
        return bool(self._counts) and self._steps < LONG

    @property
    def rising(self) -> bool:
        """Whether any of them rose, however."""
        return any(count.rises for count in self._counts.values())

    def stepped(self) -> str:
        """One step later: the name of a number that is known by now to count on, and where it began; or nothing."""
        self._steps += 1
        now = _again(self._counts)
        for place, count in list(self._counts.items()):
            value = now.get(place)
            if value is None or value < count.now:
                del self._counts[place]
                continue
            if value > count.now:
                count.rises.append((self._steps, value - count.now))
                count.now = value
            if self._goes_on(count):
                return f"'{place[2] or place[1]}' counts on from {count.first}"
        return ""

    def _goes_on(self, count: Count) -> bool:
        by = {rise for _, rise in count.rises}
        if len(by) != 1:
            return False
        rise, at = by.pop(), [step for step, _ in count.rises]
        if at == list(range(1, self._steps + 1)):
            return self._steps >= STEPS and count.first > 2 * rise
        long = {b - a for a, b in pairwise([0, *at])}
        if rise != 1 or self._steps < STEPS or len(long) != 1 or self._steps - at[-1] > at[0]:
            return False
        enough = len(at) >= (EPOCHS if at[0] < STEPS else EPOCHS - 1)
        return enough or not self._taken.isdisjoint(at[0] * (count.first + more) for more in (-1, 0, 1))


def _numbers() -> Iterator[tuple[Place, int]]:
    """The whole numbers that the functions of a script have at hand as they step: their own, and those of objects."""
    known: set[int] = set()
    for where, names in scopes():
        for name, value in list(names.items())[:HELD]:
            if type(value) is int:
                yield (where, name, ""), value
            elif (held := held_by(value)) and len(held) <= HELD and id(held) not in known:
                known.add(id(held))
                inside = [(inner, number) for inner, number in held.items() if isinstance(inner, str)]
                yield from (((where, name, inner), number) for inner, number in inside if type(number) is int)


def _again(places: Iterable[Place]) -> dict[Place, int]:
    """The numbers at these places now."""
    wanted: dict[Any, list[Place]] = {}
    for place in places:
        wanted.setdefault(place[0], []).append(place)
    found = {}
    for where, names in scopes():
        for place in wanted.pop(where, ()):
            value = names.get(place[1])
            value = held_by(value).get(place[2]) if place[2] else value
            if type(value) is int:
                found[place] = value
        if not wanted:
            break
    return found


def scopes() -> Iterator[tuple[Any, Mapping[str, Any]]]:
    """The names that each function of a script knows which waits for this one, and its module's, innermost first."""
    frame: types.FrameType | None = sys._getframe(1)
    known: set[int] = set()
    for _ in range(FRAMES):
        if frame is None:
            return
        if not frame.f_code.co_filename.startswith(OWN):
            if frame.f_locals is not frame.f_globals:
                yield frame.f_code, frame.f_locals
            if id(frame.f_globals) not in known:
                known.add(id(frame.f_globals))
                yield frame.f_globals["__name__"], frame.f_globals
        frame = frame.f_back


def held_by(value: Any) -> dict[str, Any]:
    """The names in an object, or in a dictionary."""
    if type(value) is dict:
        return value
    if isinstance(value, NO_COUNTS):
        return {}
    found = getattr(value, "__dict__", None)
    return found if type(found) is dict else {}
