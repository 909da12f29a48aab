"""What is in a checkpoint: dictionaries of named tensors, states of optimizers and schedules, however deep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from sightline.attach.hook import unwrapped
from sightline.attach.script.again import Print, print_of

NAMED = 4  # dictionaries in dictionaries: {"state": {"model": {...}}} and one more
DEEP = 6  # {"state": {"opt": {"state": {0: {"exp_avg": ...}}}}} and one more
DATA = 1 << 14  # things in one container: more are data
MANY = 64  # things in a list that may be states: longer ones are data


def states(what: Any, deep: int = NAMED) -> Iterator[Mapping[str, Tensor]]:
    """The dictionaries of named tensors in what is saved, however deep."""
    if isinstance(what, nn.Module):
        yield unwrapped(what)[1].state_dict()
    elif isinstance(what, Mapping):
        if found := {k: v for k, v in what.items() if isinstance(k, str) and isinstance(v, Tensor)}:
            yield found
        if deep:
            for part in what.values():
                yield from states(part, deep - 1)


def mappings(thing: Any, deep: int) -> Iterator[Mapping[str, Any]]:
    """The dictionaries in a file's content; those in an optimizer's or a schedule's state are not entered."""
    if isinstance(thing, Mapping):
        yield thing
    if deep and isinstance(thing, Mapping) and "param_groups" not in thing and "last_epoch" not in thing:
        for value in thing.values():
            yield from mappings(value, deep - 1)
    elif deep and isinstance(thing, list | tuple) and len(thing) <= MANY:
        for value in thing:
            yield from mappings(value, deep - 1)


def tensors(thing: Any, deep: int = DEEP) -> Iterator[Tensor]:
    """Every tensor in it."""
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, nn.Module):
        yield from unwrapped(thing)[1].state_dict().values()
    elif deep and isinstance(thing, Mapping | list | tuple) and len(thing) <= DATA:
        for value in thing.values() if isinstance(thing, Mapping) else thing:
            yield from tensors(value, deep - 1)


def address(tensor: Tensor) -> int:
    """Of its first number; 0 of what has no memory of its own."""
    plain = type(tensor) in (Tensor, nn.Parameter) and not tensor.is_sparse and tensor.device.type != "meta"
    return tensor.data_ptr() if plain else 0


def prints(thing: Any) -> frozenset[Print]:
    """All that its tensors are known again by."""
    return frozenset(print_ for tensor in tensors(thing) if (print_ := print_of(tensor)) is not None)


def _moments(optimizer: Optimizer) -> list[Tensor]:
    """What it keeps of its parameters, element by element."""
    return [t for state in optimizer.state.values() for t in state.values() if isinstance(t, Tensor) and t.dim()]


def moments_among(optimizer: Optimizer, known: frozenset[Print]) -> bool:
    """Whether what the optimizer keeps of each parameter is there, number for number."""
    live = _moments(optimizer)
    return bool(live) and known.issuperset(map(print_of, live))
