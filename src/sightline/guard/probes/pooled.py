"""Where is a row read, of which one state is kept? And is that state what the row has alone and unpadded?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sightline.guard.evidence import PaddingSeen
from sightline.guard.probes.call import Call
from sightline.guard.probes.padding import bare_of, row_alone, side_of
from sightline.guard.probes.reach import raw, tensors_of
from sightline.guard.probes.refused import refusable
from sightline.guard.probes.restore import untouched

ROWS = 4  # padded rows that are compared with themselves alone
AHEAD, NOISE = 1e-4, 8  # of a state's length: kernels of another shape move less; and times what a copy beside it does


def states_of(output: Any, shape: torch.Size) -> Tensor | None:
    """(B, T, ...) the first tensor of a model's output with an entry for each token; None where there is none."""
    return next((t for t in tensors_of(output) if t.dim() > 1 and t.shape[:2] == shape), None)


@refusable
def read_inside(call: Call, shape: torch.Size) -> Tensor | None:
    """(B, T) bool: the places whose states the model's own output depends on, where it keeps them to itself.

    The states are those of the last part of the model that gives one a token. None where there are no such states, or
    the model cannot be run again.
    """
    if not call.repeatable:
        return None
    with untouched(call.model), torch.enable_grad(), _last_states(call.model, shape) as kept:
        outputs = [t for t in tensors_of(raw(call)) if t.requires_grad]
        if not kept or not outputs:
            return None
        # weights that differ, for many an output has a sum that never changes
        total = sum(((t.float() * _weights(t)).sum() for t in outputs), torch.zeros((), device=outputs[0].device))
        grad = torch.autograd.grad(total, kept[0], allow_unused=True)[0]
    return None if grad is None else pulled(grad)


def pulled(grad: Tensor) -> Tensor:
    """(B, T) bool: the places at which a gradient of (B, T, ...) states is not zero."""
    return (grad.detach() != 0).flatten(2).any(dim=2) if grad.dim() > 2 else grad.detach() != 0


def last_alone(read: Tensor, mask: Tensor) -> bool:
    """Whether padded rows are read at the batch's last place and nowhere else. Both (B, T) bool."""
    rows = read[~mask[:, -1]]
    return bool(len(rows) and rows[:, -1].all() and not rows[:, :-1].any())


@refusable
def pooled(call: Call, mask: Tensor, step: int) -> PaddingSeen | None:
    """Compare the states of padded rows, at the batch's last place, with those of the same rows alone.

    In eval mode, without a cache. None where a row cannot be taken out of the batch, gives no states, or its states
    know of the tokens behind them: any place may then stand for the row.
    """
    side, bare = side_of(mask), bare_of(call)
    if side is None or bare is None:
        return None
    rows = (~mask.all(dim=1) & mask.any(dim=1)).nonzero().flatten().tolist()[:ROWS]
    try:
        with untouched(call.model), torch.no_grad():
            call.model.eval()
            together = _states(bare, mask.shape)
            alone = [_states(row_alone(bare, mask, row), _size(mask, row, 1)) for row in rows]
            twice = _states(row_alone(bare, mask, rows[0], copies=2), _size(mask, rows[0], 2))
            longest = max(range(len(rows)), key=lambda place: int(mask[rows[place]].sum()))
            before = _one_less(bare, mask, rows[longest])
    except (RuntimeError, TypeError, ValueError, KeyError, IndexError, AttributeError):
        return None  # a stranger's model may need what was taken away: then there is no answer
    if together is None or twice is None or before is None or any(one is None for one in alone):
        return None
    found = [one for one in alone if one is not None]
    own, noise = (
        [one[0, -1] for one in found],
        max(torch.finfo(together.dtype).eps, _apart(twice[0, -1], found[0][0, -1])),
    )
    if _apart(before[0, -1], found[longest][0, -2]) > max(AHEAD, NOISE * noise):
        return None
    ends = [int(mask[row].nonzero()[-1]) for row in rows]
    return PaddingSeen(
        step=step,
        side=side,
        generating=False,
        rows=len(rows),
        gap=min(_apart(together[row, -1], one) for row, one in zip(rows, own, strict=True)),
        noise=noise,
        pooled=True,
        ends=max(_apart(together[row, end], one) for row, end, one in zip(rows, ends, own, strict=True)),
    )


def _one_less(call: Call, mask: Tensor, row: int) -> Tensor | None:
    """The states of a row without its last token; None where it has no more than that one."""
    if (count := int(mask[row].sum())) < 2:
        return None
    less = mask.clone()
    less[row, int(mask[row].nonzero()[-1])] = False
    return _states(row_alone(call, less, row), torch.Size((1, count - 1)))


def _size(mask: Tensor, row: int, copies: int) -> torch.Size:
    return torch.Size((copies, int(mask[row].sum())))


def _states(call: Call, shape: torch.Size) -> Tensor | None:
    with _last_states(call.model, shape) as kept:
        given = states_of(raw(call), shape)
    return given if given is not None else next(iter(kept), None)


@contextmanager
def _last_states(model: nn.Module, shape: torch.Size) -> Iterator[list[Tensor]]:
    """Inside, the latest (B, T, H) states that a part of the model gave are the one item of a list."""
    kept: list[Tensor] = []

    def gave(module: nn.Module, args: Any, output: Any) -> None:
        found = states_of(output, shape)
        if found is None or found.dim() != 3 or module is model:
            return
        if torch.is_grad_enabled() and not found.requires_grad and found.is_leaf:
            found.requires_grad_()  # of a frozen part: what is made of them is to be followed all the same
        kept[:] = [found]

    handles = [module.register_forward_hook(gave) for module in model.modules()]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def _weights(values: Tensor) -> Tensor:
    return torch.linspace(1.0, 2.0, values.numel(), device=values.device).view(values.shape)


def _apart(one: Tensor, other: Tensor) -> float:
    """The distance of two states over the length of the second."""
    return float((one.float() - other.float()).norm() / other.float().norm().clamp(min=1e-30))
