"""The tensors of a host's call, wherever it put them, and what those stand for that no known name tells.

People call their fields as they like (``source``, ``tokens``, ``x``), and hand them over one by one, as keywords, or
in a dictionary, a named tuple, a dataclass. What a tensor of whole numbers stands for is then told by its values.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sightline.guard.evidence import IGNORE

DEPTH, MANY = 2, 16  # containers inside containers; parts of a list without names: more are layers of a cache
AGREE = 0.5  # of the labels are the ids at their places, or one on: of another text, they are by chance
SINGLE = (Tensor, nn.Module, str, bytes, bool, int, float, type)


def members(thing: Any, many: int | None = MANY) -> Iterator[tuple[str, Any]]:
    """The named parts of a container: a mapping, a named tuple, a list (of up to `many`), an object with attributes."""
    if thing is None or isinstance(thing, SINGLE):
        return
    if isinstance(thing, Mapping):
        yield from ((str(name), part) for name, part in thing.items())
    elif isinstance(thing, tuple | list):
        names = getattr(thing, "_fields", range(len(thing)))
        if many is None or len(thing) <= many:
            yield from ((str(name), part) for name, part in zip(names, thing, strict=False))
    elif is_dataclass(thing):  # with slots, it has no dictionary
        yield from ((part.name, getattr(thing, part.name)) for part in fields(thing) if hasattr(thing, part.name))
    else:
        yield from getattr(thing, "__dict__", {}).items()


def leaves(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Tensor]:
    """Every dense tensor of a call by its path: ``0`` for the first argument, ``batch.source`` for a member of one."""
    found: dict[str, Tensor] = {}
    for name, value in [*((str(place), part) for place, part in enumerate(args)), *kwargs.items()]:
        found.update(_inside(name, value, DEPTH))
    return found


def deep_copy(value: Any) -> Any:
    """A copy that shares nothing. `copy.deepcopy` of a view takes all the memory behind it: with a sample, all data."""
    return copy.deepcopy(value, {id(one): one.detach().clone() for one in leaves((), {"": value}).values()})


def rebuilt(thing: Any, act: Callable[[Any, str], Any], name: str = "", *, many: int | None = MANY) -> Any:
    """`thing` with ``act(part, name)`` in place of its parts. Nothing is changed in place, or copied without need.

    `many`: parts of a list that are gone through; None for all.
    """
    new = act(thing, name)
    if new is not thing or isinstance(thing, Tensor):
        return new
    old = dict(members(thing, many))
    parts = {key: rebuilt(part, act, key, many=many) for key, part in old.items()}
    if all(parts[key] is part for key, part in old.items()):
        return thing
    if isinstance(thing, tuple | list):
        return type(thing)(*parts.values()) if hasattr(thing, "_fields") else type(thing)(parts.values())
    twin = copy.copy(thing)
    if isinstance(thing, Mapping):
        for key in thing:
            twin[key] = parts[str(key)]
        return twin
    for key, part in parts.items():
        object.__setattr__(twin, key, part)
    return twin


def table_rows(model: nn.Module) -> int:
    """Rows of the largest table that a model may look ids up in: its embeddings, and matrices of classes of its own."""
    tables = [
        p
        for module in model.modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) or not type(module).__module__.startswith("torch.")
        for p in module.parameters(recurse=False)
        if p.dim() == 2
    ]
    return max((len(p) for p in tables), default=0)


def roles(whole: Mapping[str, Tensor], rows: int) -> dict[str, str]:
    """What whole numbers (B, T) stand for, role -> path: told by their values, which are read once a model.

    Numbers that count up, from 0 or anew from 0, are positions. Such as stay or go up by one number documents or
    sentences, or are a mask. The first that are neither are the ids (bare arguments have theirs in front), and what is
    neither after those are labels. Under a name or in a container ids must be places in a table of `rows` (the edges of
    a graph may not), and labels of this text.
    """
    found: dict[str, str] = {}
    bare = next(iter(whole), "").isdigit()
    for path, tensor in whole.items():
        values = tensor.detach()
        steps = values[..., 1:] - values[..., :-1]
        ids = whole.get(found.get("input_ids", ""))
        if ids is None and bare:
            found["input_ids"] = path
        elif ids is not None and (values.shape != ids.shape or not steps.numel()):
            if path.isdigit():
                found.setdefault("labels", path)
        elif bool(((steps == 1) | (values[..., 1:] == 0)).all()) and bool((values[..., 0] == 0).all()):
            found.setdefault("position_ids", path)
        elif steps.numel() and _numbers_parts(values, steps):
            continue
        elif ids is None:
            if values.dim() == 2 and values.numel() and bool((values.min() >= 0) & (values.max() < rows)):
                found["input_ids"] = path
        elif path.isdigit() or _of_text(values, ids):
            found.setdefault("labels", path)
    return found


def _inside(path: str, value: Any, depth: int) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        if value.layout is torch.strided:  # a sparse one is a graph, or a table of counts: it has no rows to be cut
            yield path, value
    elif depth:
        for name, part in members(value):
            yield from _inside(f"{path}.{name}", part, depth - 1)


def _of_text(labels: Tensor, ids: Tensor) -> bool:
    """Whether labels are of the ids, in their places or moved on by one."""
    pairs = [(labels, ids), (labels[:, :-1], ids[:, 1:]), (labels[:, 1:], ids[:, :-1])] if ids.dim() == 2 else []
    taught = [(mine == theirs)[mine != IGNORE] for mine, theirs in pairs]
    return any(same.numel() > 0 and bool(same.float().mean() > AGREE) for same in taught)


def _numbers_parts(values: Tensor, steps: Tensor) -> bool:
    """Whether every row says of each token which part it is in: 0 or 1 at first, and then the same or one more (a mask
    may fall as well)."""
    starts = (values >= 0).all() & (values[..., 0] <= 1).all() & (steps == 0).any()
    return bool(starts & (steps.abs() <= 1).all() & ((steps >= 0).all() | (steps <= 0).all()))


def plain(value: Any, kinds: tuple[type, ...]) -> bool:
    """Whether a value is of these kinds, or a container of nothing else."""
    if value is None or isinstance(value, kinds):
        return True
    known = isinstance(value, Mapping | tuple | list) or is_dataclass(value)
    return known and all(plain(part, kinds) for part in _parts(value))


def _parts(value: Any) -> list[Any]:
    if isinstance(value, tuple | list):
        return list(value)
    return [part for _, part in members(value)]


def whole_numbers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those that may be ids of tokens or what belongs to each."""
    return {path: t for path, t in tensors.items() if t.dtype in (torch.int64, torch.int32) and t.dim() > 1}
