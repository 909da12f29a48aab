"""What objects of a script's own count with, copied: their numbers, and small arrays of numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn

DEPTH, MANY = 2, 16  # containers and objects inside each other; things in one
MOST, OBJECTS = 1 << 16, 64  # elements of an array, and objects, that are copied
Fields = dict[str, Any]


@dataclass(frozen=True)
class Meter:
    """An object, and its numbers when the model was called first."""

    owner: Any
    begun: Fields


def kept(spots: Iterable[tuple[CodeType, Mapping[str, Any]]], own: Callable[[str], bool]) -> list[Meter]:
    """The objects that code names, with the numbers in them. `spots`: code, and the values of its names."""
    found: dict[int, Meter] = {}
    for code, names in spots:
        for name in (*code.co_names, *code.co_varnames, *code.co_freevars, *code.co_cellvars):
            for one in _inside(names.get(name), own, DEPTH):
                if len(found) < OBJECTS and id(one) not in found and (begun := fields(one)):
                    found[id(one)] = Meter(one, begun)
    return list(found.values())


def fields(owner: Any) -> Fields:
    """Copies of its numbers, without a wait for the device."""
    return {name: copy for name, value in vars(owner).items() if (copy := _copied(value)) is not None}


def whole(value: Any) -> Tensor:
    """A field, to be compared."""
    return torch.as_tensor(value).detach().to("cpu", torch.float64)


def nought(value: Any) -> Any:
    """Such a field before anything was counted."""
    return torch.zeros_like(value) if isinstance(value, Tensor) else value * 0


def _copied(value: Any) -> Any:
    if type(value) in (int, float):
        return value
    if type(value) is Tensor and value.numel() <= MOST and not value.is_complex() and not value.is_sparse:
        return value.detach().clone()
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    return value.copy() if kind in ("i", "u", "f") and getattr(value, "size", MOST + 1) <= MOST else None


def _inside(value: Any, own: Callable[[str], bool], depth: int) -> Iterator[Any]:
    if type(value) in (list, tuple, dict) and len(value) <= MANY and depth:
        for one in value.values() if type(value) is dict else value:
            yield from _inside(one, own, depth - 1)
    elif hasattr(value, "__dict__") and not isinstance(value, nn.Module | type) and _of_script(type(value), own):
        yield value
        for one in list(vars(value).values()) if depth else ():
            yield from _inside(one, own, depth - 1)


def _of_script(kind: type, own: Callable[[str], bool]) -> bool:
    return any(isinstance(one, FunctionType) and own(one.__code__.co_filename) for one in vars(kind).values())
