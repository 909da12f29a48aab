"""Orders that a script drew before it trains, in which inputs alone, or labels alone, may have been put."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sightline.attach.alive import living
from sightline.attach.prints import hashes_of
from sightline.guard.evidence import Fed, FiledSeen
from sightline.guard.probes.partners import compared, input_of, partners, spread_over

LEAST, MOST, KEPT = 256, 1 << 16, 12  # places of an order; orders
NUMBERS, FEW = 1 << 24, 4  # of a tensor whose rows are hashed; tensors
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


class Table:
    """A tensor of the script's that its batches are rows of, beside the classes that the loss teaches for them."""

    def __init__(self, rows: Tensor, prints: list[int]) -> None:
        self._prints, self._chosen = prints, spread_over(len(prints))
        self._inputs = {place: input_of(rows[place].clone()) for place in self._chosen}

    @classmethod
    def of(cls, parts: Sequence[tuple[Tensor, Tensor]]) -> Table | None:
        """That of which the one input of a batch is made, if there is one; `parts`: of `prints.part_hashes`."""
        if len(parts) != 1 or parts[0][0].device.type != "cpu":
            return None
        batch, wanted = parts[0][0], set(parts[0][1].tolist())
        alike = [t for t in living(Tensor) if type(t) is Tensor and not t.requires_grad and t.dtype == batch.dtype]
        fit = [t for t in alike if t.device == batch.device and t.shape[1:] == batch.shape[1:] and t.dim() > 1]
        fit = [t for t in fit if LEAST <= len(t) <= MOST and t.numel() <= NUMBERS and t.layout is torch.strided]
        for one in sorted(fit, key=len, reverse=True)[:FEW]:
            prints = hashes_of(one).tolist()
            if wanted.issubset(prints) and len(set(prints)) == len(prints):
                return cls(one, prints)
        return None

    def seen(self, fed: Sequence[Fed], step: int) -> FiledSeen | None:
        """Whether its rows go together with the classes that were taught for others."""
        taught = {row: label for one in fed for row, label in zip(one.inputs, one.classes or (), strict=False)}
        labels = {place: taught[row] for place, row in enumerate(self._prints) if row in taught}
        chosen = [place for place in self._chosen if place in labels]
        if len(chosen) < LEAST or len({self._inputs[place][0] for place in chosen}) > 1:
            return None
        rows = {at: (*self._inputs.get(at, ("", None)), {"": (float(label),)}) for at, label in labels.items()}
        count = len(self._prints)
        return compared(rows, chosen, count, _drawn(count), step, lambda places: {})


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
