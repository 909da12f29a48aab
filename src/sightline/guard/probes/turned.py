"""Do the words of a row see each other, or nothing but its padding, as under a mask that says the reverse?

Shapes: B rows, T tokens, D numbers of a state.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sightline.guard.evidence import PaddingSeen
from sightline.guard.evidence.taught_padding import filled_ends
from sightline.guard.probes.call import Call
from sightline.guard.probes.padded import real_tokens
from sightline.guard.probes.padding import side_of
from sightline.guard.probes.pooled import states_of
from sightline.guard.probes.reach import raw
from sightline.guard.probes.refused import refusable
from sightline.guard.probes.restore import untouched

ROWS, WORDS = 2, 4  # padded rows, and words in each of them, at least
STATES = 1 << 24  # numbers that are kept of one pass at most
MOVED, STILL = 1e-3, 1e-6  # of the largest number of a state: far more than rounding, and as much as it at most


def padding_of(call: Call) -> Tensor | None:
    """(B, T) bool, True on words: as the host's mask tells, else but where one id fills the ends of rows alone."""
    if (told := real_tokens(call)) is not None:
        return told
    ids = call.tensor("input_ids")
    if ids is None or ids.dim() != 2 or ids.is_floating_point() or min(ids.shape) < 2:
        return None
    real = filled_ends(ids)
    return real if real is not None and side_of(real) == "right" else None


@refusable
def turned(call: Call, real: Tensor, step: int) -> PaddingSeen | None:
    """Put other words' embeddings in the place of padding, then of words, and see which states at other words move.

    In eval mode. `real`: (B, T) bool, True on words. None where that cannot be told: the ids go through no embedding,
    nothing inside the model gives a state a token, or too few rows are padded.
    """
    rows = (real.sum(dim=1) >= WORDS) & ~real.all(dim=1)
    ids, side = call.tensor("input_ids"), side_of(real)
    if ids is None or side is None or not call.repeatable or int(rows.sum()) < ROWS:
        return None
    half = (real.cumsum(dim=1) * 2 <= real.sum(dim=1, keepdim=True)) & real
    watched = real & ~half & rows[:, None]
    with untouched(call.model), torch.no_grad():
        call.model.eval()
        once, *others = (_states(call, ids, real, where, watched) for where in (None, ~real, half))
    if not once or any(len(one) != len(once) for one in others):
        return None
    padding, words = (max(map(_moved, once, one)) for one in others)
    is_turned = padding > MOVED and words <= STILL
    return PaddingSeen(step, side, False, int(rows.sum()), padding, words, turned=is_turned)


def _states(call: Call, ids: Tensor, real: Tensor, where: Tensor | None, watched: Tensor) -> list[Tensor]:
    """States (N, D) at the `watched` tokens that parts of the model give, with other words at the places `where`."""
    with _kept(call.model, ids, real, where, watched) as kept:
        raw(call)
    return kept


@contextmanager
def _kept(model: nn.Module, ids: Tensor, real: Tensor, where: Tensor | None, watched: Tensor) -> Iterator[list[Tensor]]:
    kept: list[Tensor] = []
    room = [STATES]

    def embedded(module: nn.Module, args: Any, output: Any) -> Any:
        given = args[0] if args and isinstance(args[0], Tensor) else None
        if where is None or given is None or given.shape != ids.shape or not torch.equal(given, ids):
            return None
        words, other = output[real], output.clone()
        count = int(where.sum())
        other[where] = words[(torch.arange(count, device=words.device) + len(words) // 2) % len(words)]
        return other

    def gave(module: nn.Module, args: Any, output: Any) -> None:
        found = states_of(output, ids.shape)
        if found is not None and found.dim() == 3 and room[0] > 0:
            kept.append(found[watched].float())
            room[0] -= kept[-1].numel()

    every = list(model.modules())
    handles = [m.register_forward_hook(embedded if isinstance(m, nn.Embedding) else gave) for m in every]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def _moved(one: Tensor, other: Tensor) -> float:
    """By how much, over the largest number; infinite where it is no number any more."""
    apart = float((one - other).abs().max() / one.abs().max().clamp(min=1e-30))
    return apart if apart == apart else float("inf")
