"""The rows of a batch, of all of its columns, whatever a collate function packs them in."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from sightline.guard.probes.fields import members
from sightline.guard.probes.samples import array_of


class BatchRows:
    """Reads batches of one collate function: how its first one is to be read says how the smaller ones are."""

    def __init__(self) -> None:
        self._listed: dict[str, bool] = {}  # path -> whether the list there holds rows, and no columns
        self.texts: set[str] = set()  # paths of lists of texts
        self._axes: dict[str, int] = {}  # path -> which axis of the tensor there counts the rows

    def of(self, batch: Any, count: int) -> dict[str, list[Tensor]] | None:
        """Path -> its `count` rows; None where something in the batch has no rows, or not as many."""
        found: dict[str, list[Tensor]] = {}
        for path, rows in self._read(batch, count, ""):
            if rows is None:
                return None
            found[path] = rows
        return found or None

    def _read(self, value: Any, count: int, path: str) -> Iterator[tuple[str, list[Tensor] | None]]:
        if isinstance(value, PackedSequence):
            value = pad_packed_sequence(value, batch_first=True)
        if value is None:
            return
        if isinstance(value, list | tuple) and self._holds_rows(value, count, path):
            if all(isinstance(one, str | bytes) for one in value):
                self.texts.add(path)
            rows = [row for one in value if (row := _tensor(one)) is not None]
            yield path, rows if len(rows) == count == len(value) else None
        elif not isinstance(value, list | tuple | Mapping) and (column := _tensor(value)) is not None:
            yield path, self._split(column, count, path)
        elif parts := list(members(value, None)):
            for name, part in parts:
                yield from self._read(part, count, f"{path}.{name}")
        else:
            yield path, None

    def _holds_rows(self, value: list[Any] | tuple[Any, ...], count: int, path: str) -> bool:
        if path not in self._listed:
            rows = [_tensor(one) for one in value]
            columns = all(isinstance(one, Tensor) and one.dim() and len(one) == count for one in value)
            self._listed[path] = len(rows) == count and all(row is not None for row in rows) and not columns
        return self._listed[path]

    def _split(self, column: Tensor, count: int, path: str) -> list[Tensor] | None:
        axis = self._axes.setdefault(path, 0 if column.dim() and len(column) == count else 1)
        if column.dim() <= axis or column.shape[axis] != count:
            return None
        return list(column.unbind(axis))


def same_row(row: Tensor, own: Tensor) -> bool:
    """Whether a row of a batch is a sample's `own` one: the same, or with padding at one of its ends.

    Between the two may stand one that the sample alone has no room for (of texts moved on by one).
    """
    if row.is_floating_point() != own.is_floating_point() or row.shape[1:] != own.shape[1:] or row.dim() != own.dim():
        return False
    if row.shape == own.shape:
        return torch.equal(row, own) or (row.is_floating_point() and torch.allclose(row, own, equal_nan=True))
    more = len(row) - len(own) if row.dim() else 0
    if more <= 0:
        return False
    behind, before = row[len(own) :].flip(0), row[:more]
    right = torch.equal(row[: len(own)], own) and _padding(behind)
    return right or (torch.equal(row[more:], own) and _padding(before))


def _padding(rest: Tensor) -> bool:
    """All alike, but for the last."""
    return bool((rest[:-1] == rest[:1]).all())


def _tensor(value: Any) -> Tensor | None:
    """One row's: a tensor, an array, a number, a list of numbers, or what stands for a text; else None."""
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, str | bytes):
        return torch.tensor(zlib.crc32(value.encode() if isinstance(value, str) else value))
    if isinstance(value, int | float):
        return torch.tensor(value)
    if isinstance(value, list | tuple) and value and all(isinstance(one, int | float) for one in value):
        return torch.tensor(value)
    return array_of(value)
