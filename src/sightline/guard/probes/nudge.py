"""A little of another row's input, where a whole one moved other rows: is it a jump, as of experts that are full?

What mixes samples does so for small changes as for large ones. A router that has places for so many tokens of a batch
answers by jumps: a row that sends its tokens elsewhere makes room for others; one that is changed a
little does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from sightline.guard.probes.call import Call
from sightline.guard.probes.fields import leaves, rebuilt

SHARES = (1e-3, 3e-2)  # of the way to the other row; the larger where rounding hides what the smaller does


@contextmanager
def nudged(call: Call, swapped: Call, rows: int, share: float, *, texts: bool = True) -> Iterator[Call]:
    """The call with row 0 moved by `share` towards the last row: floating inputs, and what embeddings make of ids.

    Ids that no embedding is seen to take as they are are those of `swapped`, where they are the other row's.
    """
    embedded = _embedded(call, rows)

    theirs = leaves(swapped.args, swapped.kwargs)
    new = {
        id(mine): _moved(mine, share) if mine.is_floating_point() else theirs[path]
        for path, mine in leaves(call.args, call.kwargs).items()
        if mine is not theirs[path] and _place(mine) not in embedded
    }

    def towards(value: Any, name: str) -> Any:
        return new.get(id(value), value)

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return _moved(output, share) if _is_batch(args, rows) else None

    owners = [m for m in call.model.modules() if texts and isinstance(m, nn.Embedding)]
    hooks = [m.register_forward_hook(after) for m in owners]
    kwargs = {key: rebuilt(value, towards, key) for key, value in call.kwargs.items()}
    try:
        yield Call(call.model, tuple(rebuilt(value, towards) for value in call.args), kwargs)
    finally:
        for hook in hooks:
            hook.remove()


def _moved(value: Tensor, share: float) -> Tensor:
    twin = value.clone()
    twin[0] += share * (value[-1] - value[0])
    return twin


def _place(ids: Tensor) -> tuple[int, ...]:
    """Where its rows lie in memory."""
    return ids.data_ptr(), *ids.stride()[:1]


def _is_batch(args: tuple[Any, ...], rows: int) -> bool:
    return bool(args) and isinstance(args[0], Tensor) and args[0].dim() > 0 and len(args[0]) == rows


def _embedded(call: Call, rows: int) -> set[tuple[int, ...]]:
    """The ids that embeddings are given in one forward pass, where they have one row a sample."""
    found: set[tuple[int, ...]] = set()

    def before(module: nn.Module, args: tuple[Any, ...]) -> None:
        if _is_batch(args, rows):
            found.add(_place(args[0]))

    hooks = [m.register_forward_pre_hook(before) for m in call.model.modules() if isinstance(m, nn.Embedding)]
    try:
        call.model(*call.args, **call.kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    return found
