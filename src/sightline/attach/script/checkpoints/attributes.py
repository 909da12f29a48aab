"""Tensors that a model keeps as plain attributes, or as buffers with persistent=False: they are in no state, so that a
model read back begins without them.

Told only where a read-back model still has the zeros or ones that it was made with, the one that was trained has other
numbers there, and the answer to the very same batch is another with those.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sightline.guard.probes.call import Call
from sightline.guard.probes.restore import untouched

LARGEST = 1 << 16  # elements: statistics of inputs and tables; more are a model's caches
APART = 1e-3  # of the largest answer: not what rounding leaves

Kept = dict[str, tuple[Tensor, int]]  # path -> a tensor, and how often it had been written to


def plain(model: nn.Module) -> Kept:
    """What the modules of `model` keep beside what their states hold."""
    return {
        f"{name}.{key}".lstrip("."): (value, value._version)
        for name, module in model.named_modules()
        for key, value in (*module.__dict__.items(), *_unsaved(module))
        if type(value) is Tensor and value.is_floating_point() and 0 < value.numel() <= LARGEST
        if not value.requires_grad and not value.is_inference()
    }


def _unsaved(module: nn.Module) -> list[tuple[str, Tensor | None]]:
    return [(key, module._buffers.get(key)) for key in module._non_persistent_buffers_set]


def lost(trained: nn.Module, call: Call, at_load: Mapping[str, tuple[Tensor, int]]) -> tuple[tuple[str, ...], float]:
    """Paths that were left as they were made, and by how much the answer to `call` changes with the trained ones."""
    mine, theirs = plain(call.model), plain(trained)
    left = {
        path: theirs[path][0]
        for path, (value, version) in mine.items()
        if path in theirs and _is(at_load.get(path), value, version)
        if value.shape == theirs[path][0].shape and _as_made(value)
        if not torch.allclose(value, theirs[path][0].to(value.device, value.dtype))
    }
    return _swapped(call, left) if left else ((), 0.0)


def _is(known: tuple[Tensor, int] | None, value: Tensor, version: int) -> bool:
    return known is not None and known[0] is value and known[1] == version


def _as_made(value: Tensor) -> bool:
    return bool((value == 0).all() or (value == 1).all())


def _swapped(call: Call, others: Mapping[str, Tensor]) -> tuple[tuple[str, ...], float]:
    """Those of `others` that no pass changes (else they are a memory of it), and what they change of an answer."""
    model = call.model
    with untouched(model), torch.no_grad():
        before = plain(model)  # of buffers, the copies that a probe works on
        kept = {path: value for path, (value, _) in before.items()}
        try:
            present = call.run().answers
            after = plain(model)
            same = {path for path, (value, count) in before.items() if _is(after.get(path), value, count)}
            _put(model, {**kept, **{path: value for path, value in others.items() if path in same}})
            other = call.run().answers
        finally:
            _put(model, kept)
    if present is None or other is None or present.shape != other.shape:
        return (), 0.0
    gap, size = float((present - other).abs().max()), float(torch.stack([present, other]).abs().max())
    return (tuple(path for path in others if path in same), gap) if gap > APART * size else ((), 0.0)


def _put(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    for path, value in values.items():
        owner, _, key = path.rpartition(".")
        module = model.get_submodule(owner)
        (module._buffers if key in module._buffers else module.__dict__)[key] = value
