"""Which tokens does a position's output depend on? Change one token; see whose outputs move."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sightline.guard.probes.call import Call
from sightline.guard.probes.fields import leaves
from sightline.guard.probes.refused import refusable
from sightline.guard.probes.restore import untouched

BESIDE = ("attention_mask", "position_ids", "token_type_ids")  # are of the ids, and say nothing of another text


@dataclass(frozen=True, slots=True)
class Reads:
    """Whether the output at a token's place moves with that token (`own`), and an output before it (`ahead`)."""

    own: bool
    ahead: bool


@refusable
def reads(call: Call, ids: Tensor) -> Reads | None:
    """Change a token in the middle of each row of `ids` (B, T), a tensor that `call` was given.

    A language model's outputs move with their own token and never with a later one. One that moves its tokens on by a
    place before it reads them does not move with its own; one that corrects or tags a text looks ahead. None where the
    outputs are not one a token, or are not the same twice.
    """
    if ids.dim() != 2 or ids.shape[1] < 3 or not call.repeatable:
        return None
    column = ids.shape[1] // 2
    other = ids.clone()
    other[:, column] = _others(ids, column)
    changed = (other[:, column] != ids[:, column]).nonzero().flatten()
    once, twice, after = (_logits(one) for one in (call, call, call.swapped(ids, other)))
    if once is None or twice is None or after is None or not changed.numel():
        return None
    if once.shape[:-1] != ids.shape or after.shape != once.shape or not torch.equal(once, twice):
        return None
    moved = (after != once).flatten(2).any(dim=-1)[changed]
    return Reads(own=bool(moved[:, column].any()), ahead=bool(moved[:, :column].any()))


@refusable
def reads_alone(call: Call, ids: Tensor) -> bool | None:
    """Whether no output moves with other whole numbers that `call` was given beside `ids` (B, T): labels of a decoder,
    which reads them moved on by a place, or its own ids. None where the outputs are not the same twice."""
    if not call.repeatable:
        return None
    once, twice = _logits(call), _logits(call)
    if once is None or twice is None or not torch.equal(once, twice):
        return None
    given = leaves(call.args, call.kwargs).items()
    others = [t for name, t in given if t is not ids and name.rpartition(".")[2] not in BESIDE and t.shape == ids.shape]
    every = [_logits(call.swapped(one, one.flip(1))) for one in others if one.dtype in (torch.int64, torch.int32)]
    return all(after is not None and torch.equal(once, after) for after in every)


def before_text(call: Call) -> int | None:
    """How many outputs stand before those of the text, where a model puts images in front of its tokens.

    Told by what a change of the first and of the last column of ids moves: nothing before the place it is given to.
    None where outputs are as many as ids, or not in such an order.
    """
    ids, once = call.tensor("input_ids"), _logits(call)
    if ids is None or once is None or ids.dim() != 2 or once.dim() != 3 or len(once) != len(ids):
        return None
    first = once.shape[1] - ids.shape[1]
    for column in (0, ids.shape[1] - 1):
        other = ids.clone()
        other[:, column] = _others(ids, column)
        after = _logits(call.swapped(ids, other)) if first > 0 else None
        if after is None or after.shape != once.shape:
            return None
        moved = (after != once).any(dim=-1)
        if moved.int().argmax(dim=1)[moved.any(dim=1)].unique().tolist() != [first + column]:
            return None
    return first


def _others(ids: Tensor, column: int) -> Tensor:
    """(B,) for each row another token of the same row: of the kinds that stand in such a place. Its own if none."""
    differ = ids != ids[:, column, None]
    return ids.gather(1, differ.int().argmax(dim=1, keepdim=True)).squeeze(1)


def _logits(call: Call) -> Tensor | None:
    """In the host's own mode; each time with the same random numbers."""
    with untouched(call.model), torch.no_grad():
        return call.run().logits
