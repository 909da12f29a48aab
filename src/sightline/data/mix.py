"""Mixture: which row of which data set is drawn at position p of a stage, as a pure function of p.

So a run resumes from its position alone. Data sets take turns as evenly as their weights allow: after p draws, a data
set of weight w has been drawn p*w times, up to rounding, and never by chance. Each goes through all of its rows, in an
order of its own, before any row comes again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch

from sightline.errors import UserError

BITS = 48  # shares are multiples of 2**-48, so that the arithmetic is exact


class Mixture:
    """Draws from several data sets by weight.

    Args:
        sizes: data set name to its number of rows (or packed sequences).
        weights: data set name to sampling weight, above 0; they need not sum to 1. The same names as `sizes`.
        seed: sets every epoch's order.

    Raises:
        UserError: a data set is empty, or a weight has no data set.
    """

    def __init__(self, sizes: Mapping[str, int], weights: Mapping[str, float], seed: int) -> None:
        if unknown := sorted(set(weights) - set(sizes)):
            raise UserError(f"weights name {', '.join(unknown)}, which is no data set here", where="stage data")
        if empty := sorted(name for name in weights if sizes[name] == 0):
            raise UserError(f"data set {', '.join(empty)} has no rows", where="stage data")
        self.names = sorted(weights)  # the recipe's order of keys must not change the run
        self.sizes, self.seed = {name: sizes[name] for name in self.names}, seed
        # Data set k takes its share of what the data sets before it leave over.
        left = [sum(weights[name] for name in self.names[k:]) for k in range(len(self.names))]
        self._shares = [round(weights[name] / rest * 2**BITS) for name, rest in zip(self.names, left, strict=True)]
        self._orders: dict[str, tuple[int, list[int]]] = {}  # the epoch in use; a memory, not a state

    def draw(self, start: int, count: int) -> list[tuple[str, int]]:
        """(data set, row) for positions `start` to `start + count`."""
        return [self._at(position) for position in range(start, start + count)]

    def epochs(self, position: int) -> dict[str, float]:
        """How often each data set has been gone through after `position` draws."""
        return {name: n / self.sizes[name] for name, n in zip(self.names, self._counts(position), strict=True)}

    def _counts(self, position: int) -> list[int]:
        """Draws from each data set among the first `position`."""
        counts = []
        for share in self._shares:
            taken = (position * share + (1 << (BITS - 1))) >> BITS  # half up: grows by 0 or 1 with each position
            counts.append(taken)
            position -= taken
        return counts

    def turn(self, position: int) -> tuple[str, int]:
        """Whose turn it is at `position`, and how often that data set was drawn before."""
        for name, share in zip(self.names, self._shares, strict=True):
            half = 1 << (BITS - 1)
            before, after = (position * share + half) >> BITS, ((position + 1) * share + half) >> BITS
            if after > before:
                return name, before
            position -= before
        raise AssertionError("the last share is 1")

    def row(self, name: str, number: int) -> int:
        """The row that draw `number` of data set `name` gives."""
        epoch, place = divmod(number, self.sizes[name])
        return self._order(name, epoch)[place]

    def counts(self, position: int) -> dict[str, int]:
        """Draws from each data set among the first `position`."""
        return dict(zip(self.names, self._counts(position), strict=True))

    def _at(self, position: int) -> tuple[str, int]:
        name, before = self.turn(position)
        return name, self.row(name, before)

    def _order(self, name: str, epoch: int) -> list[int]:
        known = self._orders.get(name)
        if known is None or known[0] != epoch:
            text = f"{self.seed}/{name}/{epoch}".encode()
            seed = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1
            order = torch.randperm(self.sizes[name], generator=torch.Generator().manual_seed(seed)).tolist()
            known = self._orders[name] = (epoch, order)
        return known[1]
