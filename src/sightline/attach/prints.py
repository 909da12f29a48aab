"""Hashes of batches and of parameters: small integers, computed on the device, equal where the bits are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from sightline.guard.probes.call import Call

COLUMNS = 4096  # elements of a row that are hashed: all of a small one, an even sample of a large one
VALUES = 65_536  # elements of a parameter that are hashed, likewise
TARGETS = ("labels", "label", "targets", "target")  # what a forward takes beside its inputs
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_weights: dict[torch.device, Tensor] = {}


def row_hashes(call: Call) -> Tensor | None:
    """(B,) int64, one for each row of what the model was given (labels aside); None when rows cannot be told.

    Padding on the right does not count: ids under a zero of ``attention_mask`` are left out.
    """
    named = {**{str(i): a for i, a in enumerate(call.args)}, **call.kwargs}
    tensors = [(name, t) for name, t in _named(named) if name not in TARGETS and t.dim() > 0 and t.numel()]
    if not tensors:
        return None
    rows = len(tensors[0][1])
    total: Tensor | None = None
    with torch.no_grad():
        mask = next((t for name, t in tensors if name == "attention_mask" and t.dim() == 2), None)
        for name, tensor in tensors:
            if len(tensor) != rows or name in ("attention_mask", "position_ids"):
                continue
            if mask is not None and tensor.shape == mask.shape and not tensor.is_floating_point():
                tensor = (tensor + 1) * mask
            found = _hash(tensor.detach().reshape(rows, -1), COLUMNS)
            total = found if total is None else total * 31 + found
    return total


def value_hashes(tensors: list[Tensor]) -> Tensor:
    """(P,) int64, one for each tensor's values."""
    with torch.no_grad():
        first = tensors[0].device
        return torch.cat([_hash(t.detach().reshape(1, -1), VALUES).to(first) for t in tensors])


def _hash(rows: Tensor, most: int) -> Tensor:
    """(B,) int64 for (B, N): the bits of each element as an integer, times an odd weight of its place, summed."""
    stride = max(1, -(-rows.shape[1] // most))
    sample = rows[:, ::stride].contiguous()
    if sample.is_complex():
        sample = torch.view_as_real(sample).flatten(1)
    if sample.dtype is torch.bool:
        sample = sample.to(torch.int8)
    bits = sample.view(INTEGERS[sample.element_size()]).long()
    return (bits * _weight(bits.shape[1], bits.device)).sum(dim=1)


def _weight(count: int, device: torch.device) -> Tensor:
    """(count,) odd int64 weights, the same on every rank and in every run."""
    known = _weights.get(device)
    if known is None or len(known) < count:
        place = torch.arange(1, max(count, COLUMNS) + 1, dtype=torch.int64, device=device)
        known = _weights[device] = (place * 0x5851F42D4C957F2D ^ (place >> 3)) | 1
    return known[:count]


def _named(values: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    for name, value in values.items():
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, dict):
            yield from _named({str(key): part for key, part in value.items()})
        elif type(value) in (list, tuple):
            yield from _named({f"{name}.{i}": part for i, part in enumerate(value)})
