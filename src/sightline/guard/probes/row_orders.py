"""Do samples leave a model in the places they came in? Rows of one input are changed: which rows of the output move?

What sorts its rows by length for a packed sequence gives them in another order than it was given, or than what stands
beside it. Asked is first with half of the rows. Where other places move, an input is asked for its whole order: bit by
bit of the row's number and of its complement, so that no place can be moved by two rows unseen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from sightline.guard.evidence import OrdersSeen
from sightline.guard.probes.call import Call
from sightline.guard.probes.fields import leaves
from sightline.guard.probes.reach import tensors_of
from sightline.guard.probes.refused import refusable
from sightline.guard.probes.restore import untouched
from sightline.guard.probes.rows import attributes

LEAST, MOST = 6, 256  # rows: of fewer, orders agree by chance; of more, it takes too many passes
SIDES = 3  # inputs that are asked about
WIDE = 4096  # numbers of a row of an output that are compared
ROUNDING, FULL = 8, 1e-2  # roundings of the largest output; share of the largest change that counts as one
ASIDE = ("mask", "bias", "type", "position", "label", "target", "cache", "past")
WORDS = (torch.int64, torch.int32)
Place = tuple[int, int]  # an output, and the dimension of it that rows are along
Moved = dict[Place, Tensor]  # (rows,) bool: which of them moved, where these are as many as were changed


@refusable
def row_orders(call: Call, step: int) -> OrdersSeen | None:
    """Run `call` in eval mode: as it is, and once for each of its inputs with half of its rows changed.

    Nothing is `apart` where they come out as they came, in any output. None where nothing could be told: outputs that
    move with none or many of the rows, or not alike each time.
    """
    call = call.unfused()
    sides = _sides(call)
    if not sides or call.forward is not None:
        return None
    half = torch.randperm(len(sides[0].given), generator=torch.Generator().manual_seed(0)) < len(sides[0].given) // 2
    with untouched(call.model), attributes(call.model), torch.no_grad():
        call.model.eval()
        asked = _Asked(call, _outputs(call))
        moved = [asked.moved(side, half) for side in sides]
        met = list(_met(moved))
        agree = [(a, p, q) for a, p, b, q in met if torch.equal(moved[a][p], moved[b][q])]
        if agree or len(sides) == 1:
            ways = [(a, p) for a, p, q in agree if p == q] or [(0, p) for p in moved[0] if not agree and not p[1]]
            still = agree and not ways  # pairs that meet
            if still or any(torch.equal(moved[a][p], half) for a, p in ways):
                return _of_labels(step, tuple(range(len(half))))
            orders = [order for a, p in ways if (order := asked.order(sides[a], p)) is not None]
            return _of_labels(step, min(orders)) if orders else None
        for a, p, b, q in met:
            one, other = asked.order(sides[a], p), asked.order(sides[b], q)
            if one is not None and other is not None:
                return OrdersSeen(step, one, other, "inputs" if p == q else "pairs")
    return None


def _of_labels(step: int, order: tuple[int, ...]) -> OrdersSeen:
    return OrdersSeen(step, order, tuple(range(len(order))), "labels")


@dataclass(frozen=True, slots=True, eq=False)
class _Side:
    """An input, and what its rows are changed to."""

    given: Tensor
    changed: Tensor

    def with_other(self, rows: Tensor) -> Tensor:
        """The input with these rows changed."""
        chosen = rows.to(self.given.device).view(-1, *(1 for _ in self.given.shape[1:]))
        return torch.where(chosen, self.changed, self.given)


class _Asked:
    """One call, and its outputs as it is."""

    def __init__(self, call: Call, first: list[Tensor]) -> None:
        self._call, self._first = call, first

    def moved(self, side: _Side, rows: Tensor) -> Moved:
        """Change these rows of one input."""
        found: Moved = {}
        now = _outputs(self._call.swapped(side.given, side.with_other(rows)))
        if len(now) != len(self._first):
            return found
        for at, (before, after) in enumerate(zip(self._first, now, strict=True)):
            if before.shape != after.shape or not before.dim() or len(before) != len(rows):
                continue
            gap = (after.float() - before.float()).abs().nan_to_num(0.0, 0.0)
            least = ROUNDING * torch.finfo(before.dtype).eps * float(before.float().abs().nan_to_num(0, 0, 0).max())
            least = max(least, FULL * float(gap.max()))
            for axis in range(2 if before.shape == (len(rows), len(rows)) else 1):
                places = (gap.movedim(axis, 0).reshape(len(rows), -1).amax(dim=1) > least).cpu()
                if int(places.sum()) == int(rows.sum()):
                    found[at, axis] = places
        return found

    def order(self, side: _Side, place: Place) -> tuple[int, ...] | None:
        """Which row moves each place; None unless each moves one, each time."""
        count = len(side.given)
        numbers, order = torch.arange(count), torch.zeros(count, dtype=torch.int64)
        for bit in range((count - 1).bit_length()):
            chosen = (numbers >> bit & 1).bool()
            these, those = (self.moved(side, rows).get(place) for rows in (chosen, ~chosen))
            if these is None or those is None or not bool((these ^ those).all()):
                return None
            order += these.long() << bit
        return tuple(order.tolist()) if torch.equal(order.sort().values, numbers) else None


def _met(moved: list[Moved]) -> Iterator[tuple[int, Place, int, Place]]:
    """Where rows of two inputs meet: in a row of an output, in its rows and columns, or in two outputs of one each."""
    for a, b in combinations(range(len(moved)), 2):
        for p in moved[a]:
            for q in moved[b]:
                apart = p[0] != q[0] and p[1] == q[1] == 0 and p not in moved[b] and q not in moved[a]
                if p == q or p[0] == q[0] or apart:
                    yield a, p, b, q


def _outputs(call: Call) -> list[Tensor]:
    """What it gives; of long rows some numbers of each."""
    return [_thinned(tensor.detach()) for tensor in tensors_of(call.model(*call.args, **call.kwargs))]


def _thinned(output: Tensor) -> Tensor:
    if output.dim() < 2 or output[0].numel() <= WIDE:
        return output
    flat = output.flatten(1)
    return flat[:, :: -(-flat.shape[1] // WIDE)].clone()


def _sides(call: Call) -> list[_Side]:
    """Inputs that have one row a sample, with other values in their place."""
    named = leaves(call.args, call.kwargs)
    wide = {id(t): t for name, t in named.items() if t.dim() > 1 and not any(w in name.lower() for w in ASIDE)}
    sides = [_Side(value, other) for value in wide.values() if (other := _other(value)) is not None]
    counts = {len(side.given) for side in sides}
    return sides[:SIDES] if len(counts) == 1 and LEAST <= counts.pop() <= MOST else []


def _other(value: Tensor) -> Tensor | None:
    """Other rows of the same kind: those of the next sample, and other words in each text."""
    if value.dim() == 2 and value.dtype in WORDS:
        return _other_words(value)
    if value.dtype is torch.bool or value.is_complex():
        return None
    other = value.detach().roll(1, dims=0)
    return None if torch.equal(other, value) else other


def _other_words(ids: Tensor) -> Tensor | None:
    """Texts of the same length: each word is put in the place of another one, everywhere.

    Those that stand beside themselves (padding, places of images), or in each row alike, stay.
    """
    kinds, place = ids.unique(return_inverse=True)
    counts = torch.zeros(len(ids), len(kinds), dtype=torch.int64, device=ids.device)
    counts.scatter_add_(1, place, torch.ones_like(place))
    free = (counts != counts[:1]).any(dim=0)
    free[place[:, 1:][ids[:, 1:] == ids[:, :-1]].unique()] = False
    chosen = free.nonzero().flatten()
    if len(chosen) < 2:
        return None
    new = torch.arange(len(kinds), device=ids.device)
    new[chosen] = chosen.roll(1)
    return kinds[new][place]
