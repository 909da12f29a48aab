"""Is one of two answers preferred to the other, though the model was given the same row twice?

Whatever the loss, its gradient then pulls one output up and the other, which is the same, down by as much. The two are
the rows of two passes of a step, or of the halves of one. Passes on the same rows for another reason (dropout drawn
twice, views of one sample) are pulled together, and not to and fro.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.guard.evidence.ties import TiedSeen
from sightline.guard.probes.call import Call, outcome
from sightline.guard.probes.fields import leaves

LOOKS = 24  # measured steps that are looked at
MOST = 8  # passes of a step
CLOSE = 1e-3  # of a gradient: rows that are padded otherwise have other roundings


@dataclass(slots=True)
class Pass:
    """What a pass was given, by its place in the call, and how its outputs were pulled: (B, 3), see `_pulled`."""

    given: dict[str, Tensor]
    pulled: Tensor | None = None

    def halves(self) -> tuple[Pass, Pass] | None:
        """Its first and second half, as passes."""
        if self.pulled is None or len(self.pulled) % 2:
            return None
        size = len(self.pulled) // 2
        first, second = (
            Pass({name: t[at] for name, t in self.given.items()}, self.pulled[at])
            for at in (slice(size), slice(size, None))
        )
        return first, second


class Ties(Onlooker):
    """Compares the passes of a step two by two, and the halves of each."""

    shows: ClassVar = ("TiedSeen",)
    measured_only: ClassVar = True

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self._looks = LOOKS
        self._passes: list[Pass] = []
        self._counts = {way: [0, 0, 0] for way in ("passes", "halves")}  # pairs, tied ones, batches

    def again(self) -> None:
        """Another stage may have other rows."""
        if self._looks >= 0:
            self._looks, self._counts = LOOKS, {way: [0, 0, 0] for way in self._counts}

    def forward(self, call: Call, output: Any, *, training: bool, measured: bool) -> None:
        """Keep what a training pass is given until its gradient came."""
        if not training or not measured or self._looks <= 0 or len(self._passes) >= MOST:
            return
        answers = outcome(output).answers
        if answers is None or not answers.requires_grad or not answers.dim():
            return
        every = leaves(call.args, call.kwargs)
        one = Pass({name: t for name, t in every.items() if t.dim() and len(t) == len(answers)})
        if not one.given:
            return
        self._passes.append(one)

        def came(grad: Tensor) -> None:
            one.pulled = _pulled(grad)

        self.heed(answers, came)

    def before_step(self, optimizer: Optimizer, *, measured: bool) -> None:
        """All gradients of the step are there."""
        passes, self._passes = [one for one in self._passes if one.pulled is not None], []
        if not passes or self._looks <= 0:
            return
        self._looks -= 1
        for first, second in zip(passes[::2], passes[1::2], strict=False):
            self._compare("passes", first, second)
        for one in passes:
            if (halves := one.halves()) is not None:
                self._compare("halves", *halves)

    def _compare(self, way: str, first: Pass, second: Pass) -> None:
        if (same := _same(first, second)) is not None:
            self.recorder.mailbox.post([same], lambda values: self._came(way, values[0]))

    def _came(self, way: str, same: Tensor) -> None:
        counts = self._counts[way]
        for place, more in enumerate((len(same), int(same.sum()), 1)):
            counts[place] += more
        seen = TiedSeen(self.recorder.step, *counts)
        if seen.told and self._looks >= 0:
            self._looks = -1
            self.recorder.offer(seen)


def _pulled(grad: Tensor) -> Tensor:
    """(B, 3) of each row: the largest and the smallest gradient, and their length."""
    flat = grad.detach().float().reshape(len(grad), -1)
    return torch.stack([flat.amax(dim=1), flat.amin(dim=1), flat.norm(dim=1)], dim=1)


def _same(first: Pass, second: Pass) -> Tensor | None:
    """(B,) bool: the two rows are one, and pulled to and fro; None for passes that cannot be compared."""
    a, b = first.pulled, second.pulled
    if a is None or b is None or a.shape != b.shape or first.given.keys() != second.given.keys():
        return None
    up, down, length = b.unbind(dim=1)
    near = CLOSE * length
    back = torch.stack([-down, -up, length], dim=1)
    same = ((a - back).abs() <= near[:, None]).all(dim=1) & (length > 0)
    for name in first.given:
        if (equal := _equal(first.given[name], second.given[name])) is None:
            return None
        same = same & equal.to(same.device)
    return same


def _equal(one: Tensor, other: Tensor) -> Tensor | None:
    """(B,) bool: rows are equal; of ids, where the longer ones are filled up with one id. None of other shapes."""
    if one.shape == other.shape:
        return (one == other).reshape(len(one), -1).all(dim=1)
    if one.dim() != 2 or other.dim() != 2 or len(one) != len(other) or one.is_floating_point():
        return None
    width, longer = min(one.shape[1], other.shape[1]), max(one, other, key=lambda t: t.shape[1])
    rest = longer[:, width:]
    return (one[:, :width] == other[:, :width]).all(dim=1) & (rest == rest[:, :1]).all(dim=1)
