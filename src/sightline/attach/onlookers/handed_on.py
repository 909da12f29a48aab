"""Of parts that are called one by one: is what one made handed on to another, by its values alone?

What a script joins with other embeddings before is found again among these, vector by vector.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from sightline.guard.probes.call import Call, differentiable
from sightline.guard.probes.reach import tensors_of

FEW = 4  # vectors that are looked for, evenly spaced
LEAST, WIDTH = 2, 8  # vectors, and numbers of each: fewer are found by chance


def handed_on(parted: Sequence[tuple[Call, Any]], vain: Collection[int]) -> Tensor | None:
    """Whether a part was given vectors that one of `vain` made (ids of parts that learn nothing) before; 0-dim.

    None where none of these made any, or no other was called later. Nothing is read from the device.
    """
    found, ahead = list[Tensor](), list[Tensor]()
    for call, output in parted:
        if id(call.model) in vain:
            ahead += [one for one in differentiable(output) if one.dim() > 1 and one.shape[-1] >= WIDTH]
            continue
        given = [*tensors_of(call.args), *tensors_of(dict(call.kwargs))]
        found += [_among(one, made) for made in ahead for one in given if _alike(one, made)]
    return torch.stack(found).any() if found else None


def _alike(given: Tensor, made: Tensor) -> bool:
    enough = made.numel() >= LEAST * made.shape[-1]
    return enough and given.dim() > 1 and given.shape[-1] == made.shape[-1] and given.dtype == made.dtype


def _among(given: Tensor, made: Tensor) -> Tensor:
    """Whether a few of its vectors are there. All the same, as what a layer of zeros makes, they tell nothing."""
    every, vectors = (one.detach().flatten(0, -2) for one in (given, made))
    few = vectors[:: max(1, len(vectors) // FEW)][:FEW]
    return (few[:, None] == every[None]).all(dim=-1).any(dim=1).all() & (few != few[:1]).any()
