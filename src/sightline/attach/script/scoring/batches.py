"""Batches and outputs, as the tensors in them: found, counted, and put into copies."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from sightline.attach.script.scoring.pairs import leaves
from sightline.guard.probes.fields import rebuilt

PAIRS = 6  # of an output and what may be its labels


def tensors(value: Any) -> list[Tensor]:
    """Those inside, in their order."""
    return [leaf for leaf in leaves(value) if isinstance(leaf, Tensor)]


def made_of(fetched: Iterable[Any], given: Any, last: Any) -> Any:
    """The batch that the model was given something of: hosts may have fetched the next one already. Else the last."""
    places = _places(given)
    return next((batch for batch in fetched if not places.isdisjoint(_places(batch))), last)


def _places(value: Any) -> set[int]:
    return {one.data_ptr() for one in tensors(value) if one.layout is torch.strided}


def rows(batch: Any) -> int:
    """How many a batch has."""
    return next((len(leaf) for leaf in leaves(batch) if getattr(leaf, "ndim", 1)), 0)


def likely(batch: Any, output: Any) -> list[tuple[int, int]]:
    """Places of tensors in an output, and of tensors of a batch that may be what is wanted there."""
    ways = [
        (one, other)
        for one, said in enumerate(tensors(output))
        for other, wanted in enumerate(tensors(batch))
        if fits(said, wanted)
    ]
    return ways[:PAIRS]


def fits(said: Tensor, wanted: Tensor) -> bool:
    """Whether a tensor may be what is wanted where a model gave another."""
    if not (said.dim() and wanted.dim() and len(said) == len(wanted)):
        return False
    if not said.is_floating_point():  # classes or words that are found out already
        return said.dtype == wanted.dtype != torch.bool and said.shape == wanted.shape
    return said.dim() == wanted.dim() + 1 or said.squeeze().shape == wanted.squeeze().shape


def copied(value: Any, place: int = -1, new: Tensor | None = None) -> Any:
    """A copy, with `new` for its tensor number `place`."""
    known = tensors(value)
    return replaced(value, {id(one): new if at == place else one.detach().clone() for at, one in enumerate(known)})


def some(value: Any, of: slice) -> Any:
    """A copy with some of its rows alone: of all that has as many rows as it."""
    count = rows(value)
    cut = {id(one): one.detach()[of].clone() if one.dim() and len(one) == count else one for one in tensors(value)}
    return replaced(value, cut, of, count)


def replaced(value: Any, new: dict[int, Any], of: slice = slice(None), count: int = -1) -> Any:
    """A copy with other tensors, by the ids of those that they are for."""

    def made(one: Any, name: str) -> Any:
        if isinstance(one, Tensor):
            return new.get(id(one), one)
        if type(one).__module__ == "numpy":
            return copy.deepcopy(one[of] if count > 0 and one.ndim and len(one) == count else one)
        many = type(one) is list and len(one) == count and count > 0 and not isinstance(one[0], Tensor | list | tuple)
        return one[of] if many else one

    return rebuilt(value, made, many=None)
