"""Orders that a script drew before it trains, in which inputs alone, or labels alone, may have been put."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sightline.guard.evidence import FiledSeen
from sightline.guard.probes.partners import partners

LEAST, MOST, KEPT = 256, 1 << 16, 12  # places of an order; orders
DRAWN: list[Callable[[], Sequence[int]]] = []  # where somebody notes them


def mispaired(loader: DataLoader[Any], step: int) -> FiledSeen | None:
    """Whether the inputs of a loader's data set go together with the labels of other rows."""
    try:
        count = len(loader.dataset)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        return None
    if not LEAST <= count <= MOST or _reads(loader.dataset):
        return None
    return partners(loader, _drawn(count), step)


def _reads(thing: Any) -> bool:
    """Whether it holds an open file: another process that reads it would move its place for this one, too."""
    held = vars(thing).values() if isinstance(thing, Dataset) else thing[:1] if isinstance(thing, list | tuple) else ()
    return callable(getattr(thing, "close", None)) or any(map(_reads, held))


def _drawn(count: int) -> list[Sequence[int]]:
    """Each order of `count` rows or more: those that were noted, and those that the script keeps as a global."""
    kept = (_line(value, count) for value in list(vars(sys.modules.get("__main__", sys)).values()))
    found = [line for make in DRAWN if len(line := make()) >= count]
    return [*found, *(line for line in kept if line is not None)][:KEPT]


def _line(value: Any, count: int) -> Sequence[int] | None:
    """A global as an order, if it is one that changes anything."""
    kinds = isinstance(value, Tensor) or type(value).__name__ == "ndarray"
    if not kinds and not isinstance(value, list):
        return None
    if len(getattr(value, "shape", (0,))) != 1 or not count <= len(value) <= MOST:
        return None
    line: list[Any] = value.tolist() if not isinstance(value, list) else value
    whole = all(type(place) is int for place in line) and sorted(line) == list(range(len(line)))
    return line if whole and line != sorted(line) else None
