"""Does each sample have its own output? One row's input is replaced by another's, and the outputs are compared.

Where a sample has several inputs, one of them may have a small effect, and what is mixed of it be lost beside the rest
(a picture beside a question): it is then replaced alone too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sightline.guard.evidence import RowsSeen
from sightline.guard.probes.call import Call
from sightline.guard.probes.fields import leaves, rebuilt
from sightline.guard.probes.nudge import SHARES, nudged
from sightline.guard.probes.refused import refusable
from sightline.guard.probes.restore import untouched

ROWS = 16  # samples of a batch that are looked at: enough to see a mix, few enough to cost little
STAY = 1e-2  # of the change in row 0: a mix moves others as much, what experts with room leave is rounding
STAY_ALONE = 5e-2  # the same of one of several inputs: half of what counts as passed on to another row
SURELY = 4  # roundings of the largest output
FAINT = 0.25  # of the share that others have in all of a change: a mix that is weak moves them as much by a little
ALONE = 2  # inputs that are replaced alone, of images or features: a forward pass each


@refusable
def rows_apart(call: Call, step: int, *, varied: bool) -> RowsSeen | None:
    """Run `call` some times in eval mode: twice as it is, then with row 0's inputs replaced by the last row's.

    None where it is not clear what a row is: inputs that do not all share their leading dimension, one row, outputs
    that are no tensor, or an n x n output (all samples compared with all).
    """
    call = call.unfused()
    inputs = [value for value in leaves(call.args, call.kwargs).values() if value.dim() > 0]
    sizes = {len(value) for value in inputs if len(value) != 1 or value.dim() < 2}
    if call.of_graph or len(sizes) != 1 or (rows := sizes.pop()) < 2 or _own_statistics(call.model) or _packed(inputs):
        return None
    with untouched(call.model), attributes(call.model), torch.no_grad():
        call.model.eval()
        first = answer_of(call.model(*call.args, **call.kwargs))
        if first is None or first.dim() == 0 or first.shape[:2] == (rows, rows):
            return None
        second = _second(inputs, rows)
        if len(first) != rows:
            return RowsSeen(step, rows, tuple(first.shape), varied=varied, second=second)
        again = answer_of(call.model(*call.args, **call.kwargs))
        sets = _alike(inputs, rows)
        wholes = [_moved(call, rows, first, only) for only in sets or (None,)]
        singles = [] if sets else _apart(inputs, rows)
        parts = [_moved(call, rows, first, only) for only in singles]
        leaps = [_jumps(call, rows, first, p, only) for p, only in zip(parts, singles, strict=True) if p is not None]
        jumps = not sets and wholes[0] is not None and _jumps(call, rows, first, wholes[0]) is True
        columns = second is not None and first.shape[1:2] == (second,) and _columns_apart(call, second, first)
    if again is None or any(whole is None for whole in wholes):
        return None
    change = min((whole for whole in wholes if whole is not None), key=lambda whole: float(whole[1:].max()))
    told = [part for part in parts if part is not None]
    alone = tuple((float(part[0]), float(part[1:].median())) for part in told)
    beside = tuple(0.0 if full is not False else float(part[1:].max()) for part, full in zip(told, leaps, strict=True))
    noise = max(_gap(first, again), torch.finfo(first.dtype).eps * float(first.abs().max()))
    others = sorted(change[1:].tolist(), reverse=True)[:ROWS]
    own, shape = float(change[0]), tuple(first.shape)
    return RowsSeen(step, rows, shape, own, tuple(others), noise, varied, alone, jumps, beside, second, columns)


def _alike(inputs: list[Tensor], rows: int) -> list[Tensor]:
    """Two inputs of one shape: one may be a set that all of the other's rows are compared with (examples, queries).

    Each is replaced alone, and what moves fewer rows counts: a model that mixes its rows does so from either.
    """
    mine = [value for value in inputs if len(value) == rows and value.dim() > 1 and value.is_floating_point()]
    return mine if len(mine) == 2 and mine[0].shape == mine[1].shape and mine[0] is not mine[1] else []


def _apart(inputs: list[Tensor], rows: int) -> list[Tensor]:
    """Images and features that a sample has beside other inputs."""
    mine = [value for value in inputs if len(value) == rows]
    return [value for value in mine if value.dim() > 2 and value.is_floating_point()][:ALONE] if len(mine) > 1 else []


def _moved(call: Call, rows: int, first: Tensor, only: Tensor | None) -> Tensor | None:
    """(rows,) by how much each row's output is another than in `first` when row 0 is given the last row's input."""
    return _difference(_swapped(call, rows, only), rows, first)


def _difference(other: Call, rows: int, first: Tensor) -> Tensor | None:
    changed = answer_of(other.model(*other.args, **other.kwargs))
    if changed is None or changed.shape != first.shape:
        return None
    return (changed.float() - first.float()).abs().reshape(rows, -1).amax(dim=1)


def _jumps(call: Call, rows: int, first: Tensor, change: Tensor, only: Tensor | None = None) -> bool | None:
    """Whether other rows stay where they are when row 0 is given only a little of the last row's input.

    `only`: of this one input, whose effect may be small. None where rounding hides what a little does.
    """
    stay = STAY if only is None else STAY_ALONE
    rounding = SURELY * torch.finfo(first.dtype).eps * float(first.abs().max())
    if float(change[1:].max()) <= rounding:
        return False
    for share in SHARES:
        with nudged(call, _swapped(call, rows, only), rows, share, texts=only is None) as other:
            little = _difference(other, rows, first)
        if little is not None and float(little[0]) > rounding / stay:
            share_of_all = float(change[1:].max()) / max(float(change[0]), rounding)
            return float(little[1:].max()) <= min(stay, FAINT * share_of_all) * float(little[0])
    return None


def _second(inputs: list[Tensor], rows: int) -> int | None:
    """The second dimension, which may be the batch, where all inputs have the same: but for a mask of all x all."""
    mine = [value for value in inputs if len(value) == rows]
    found = {value.shape[1] if value.dim() > 1 else 0 for value in mine if value.shape != (rows, rows)}
    return found.pop() if len(found) == 1 and min(found) > 1 else None


def _columns_apart(call: Call, second: int, first: Tensor) -> bool:
    """Whether entries along dimension 1 have nothing to do with each other, as those of a batch have not."""

    def swap(value: Any, name: str) -> Any:
        if not isinstance(value, Tensor) or value.shape[:2] != (len(first), second):
            return value
        twin = value.clone()
        twin[:, 0] = value[:, -1]
        return twin

    args = tuple(rebuilt(a, swap) for a in call.args)
    changed = answer_of(call.model(*args, **{k: rebuilt(v, swap, k) for k, v in call.kwargs.items()}))
    if changed is None or changed.shape != first.shape:
        return False
    change = (changed.float() - first.float()).abs().transpose(0, 1).flatten(1).amax(dim=1)
    return float(change[1:].max()) <= STAY * float(change[0])


def _packed(inputs: list[Tensor]) -> bool:
    """One row of everything, and lists beside it: where the documents of the row end."""
    wide = [value for value in inputs if value.dim() > 1]
    return bool(wide) and all(len(value) == 1 for value in wide)


def _swapped(call: Call, rows: int, only: Tensor | None) -> Call:
    def swap(value: Any, name: str) -> Any:
        rowless = not isinstance(value, Tensor) or value.dim() == 0 or len(value) != rows
        if rowless or (only is not None and value is not only):
            return value
        twin = value.clone()
        twin[0] = value[-1]
        return twin

    args = tuple(rebuilt(a, swap) for a in call.args)
    return Call(call.model, args, {k: rebuilt(v, swap, k) for k, v in call.kwargs.items()})


def answer_of(output: Any) -> Tensor | None:
    """The tensor whose rows are judged: the output, its logits, or the first floating tensor with a dimension."""
    if (logits := getattr(output, "logits", None)) is not None or isinstance(output, dict):
        output = logits if logits is not None else output.get("logits")
    parts = output if isinstance(output, tuple | list) else (output,)
    found = [part for part in parts if isinstance(part, Tensor) and part.is_floating_point() and part.dim() > 0]
    return found[0] if found else None


def _own_statistics(model: nn.Module) -> bool:
    """Batch norm without running statistics mixes the batch by design."""
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is None for m in model.modules())


def _gap(one: Tensor, other: Tensor) -> float:
    return float((one.float() - other.float()).abs().max()) if one.shape == other.shape else float("inf")


@contextmanager
def attributes(model: nn.Module) -> Iterator[None]:
    """Put back what a model sets on itself in Python: a hidden state kept from call to call, a counter."""
    saved = [(module, dict(vars(module))) for module in model.modules()]
    try:
        yield
    finally:
        for module, before in saved:
            now = vars(module)
            for name in [name for name in now if name not in before]:
                del now[name]
            for name, value in before.items():
                if now.get(name) is not value:
                    now[name] = value
