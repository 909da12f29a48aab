"""What is in a checkpoint: dictionaries of named tensors, states of optimizers and schedules, however deep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from sightline.attach.hook import unwrapped
from sightline.attach.script.again import Print, print_of

NAMED = 4  # dictionaries in dictionaries: {"state": {"model": {...}}} and one more
DEEP = 6  # {"state": {"opt": {"state": {0: {"exp_avg": ...}}}}} and one more
DATA = 1 << 14  # things in one container: more are data
MANY = 64  # things in a list that may be states: longer ones are data
FIRST = 8  # tensors that a file is known again by
Known = tuple[Print, ...]


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


def known_by(content: Any) -> Known | None:
    """A few numbers of the first tensors in what was saved or read; None where there are hardly any."""
    every = (tensor for state in states(content) for tensor in state.values())
    first = islice((tensor for tensor in every if tensor.is_floating_point()), FIRST)
    found = tuple(print_ for tensor in first if (print_ := print_of(tensor)) is not None)
    return found if len(found) > 1 else None


def tells_how_far(content: Mapping[Any, Any]) -> bool:
    """Whether a checkpoint holds a count beside its states: of epochs, steps or samples."""
    return any(type(value) is int and value > 0 for value in content.values())


def bytes_of(content: Any) -> int:
    """How large the tensors in it are, together."""
    if isinstance(content, Tensor):
        return content.numel() * content.element_size()
    parts = content.values() if isinstance(content, Mapping) else content if isinstance(content, list | tuple) else ()
    return sum(bytes_of(part) for part in parts)


def is_among(state: Mapping[str, Any], content: Mapping[Any, Any]) -> bool:
    """Whether a module's state is one of the checkpoint's, or made of its tensors."""
    tensors = {id(value) for value in state.values() if isinstance(value, Tensor)}
    parts = [content, *(part for part in content.values() if isinstance(part, Mapping))]
    return bool(tensors) and any(id(value) in tensors for part in parts for value in part.values())
