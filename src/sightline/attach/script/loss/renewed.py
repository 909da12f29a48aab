"""A reference that is made the policy's equal again and again, on pairs of which it was asked before.

A copy equals its policy before the first step alone. Where another is made, or the policy's weights are loaded into it
(at the head of each epoch, say), the next margins are zero once more, and what was learnt counts for nothing. Who makes
a new reference for new pairs, all of them or the rejected ones, means to.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from sightline.attach.graph import nodes
from sightline.attach.recorder import Recorder
from sightline.attach.script.loss.margins import MOST, NOTHING, PAIRS, given_to
from sightline.attach.script.watch import Models
from sightline.guard.evidence import ReferenceSeen

RENEWED = 2  # times that margins which stood were zero right after it
APART = 1e-3  # of a margin before it: larger than what kernels leave
AGAIN = 2  # rows of each side that came before it, too: by chance none does
HEARD = 8  # renewals after which the next step is looked at
DEEP = 4096  # nodes of a graph that are gone through for the ids
ROWS = 8192  # kept


@dataclass(slots=True)
class Kept:
    """Of one policy: the `step` of the last renewal, how many were `heard` of, and how many showed.

    `apart`: the largest margin since it. `rows`: of each side, what came so far, and `before` the last renewal;
    `again`: how many of those came once more.
    """

    step: int = -1
    heard: int = 0
    shown: int = 0
    since: int = 0
    apart: float = 0.0
    rows: list[set[bytes]] = field(default_factory=list)
    before: list[set[bytes]] = field(default_factory=list)
    again: list[int] = field(default_factory=list)
    over: bool = False


class Renewed:
    """Looks at the losses of a process that trains one model, in measured steps, and hears of copies of it."""

    def __init__(self, models: Models) -> None:
        self._models = models
        self._kept: WeakKeyDictionary[Recorder, Kept] = WeakKeyDictionary()

    def copied(self, module: nn.Module) -> None:
        """A module was made from another, or given a state: a policy that has margins is looked at in its next step."""
        for one in self._models.live:
            kept, recorder = self._kept.get(one.recorder), one.recorder
            if kept is None or kept.over or kept.heard >= HEARD or recorder.step in (kept.step, 0):
                continue
            if any(type(part) is type(recorder.model) and _equal(part, recorder.model) for part in module.modules()):
                kept.heard += 1
                kept.step, kept.before = recorder.step, [set(rows) for rows in kept.rows]
                recorder.pace.again(recorder.step)
                if recorder.asleep:
                    recorder.wakes = recorder.step
                    recorder.wake()

    def look(self, root: Tensor, recorder: Recorder) -> None:
        """A backward pass begins from `root`, in a measured step."""
        kept = self._kept.get(recorder)
        if kept is not None and kept.over:
            return
        given = [one for node in nodes([root.grad_fn], most=MOST) if (one := given_to(node)) is not None]
        if len(given) != 1 or given[0].numel() < PAIRS:
            return
        if kept is None:
            kept = self._kept[recorder] = Kept(since=recorder.step)
        first = kept.step == recorder.step

        def arrived(came: list[Tensor], kept: Kept = kept) -> None:
            self._take(recorder, kept, came, first=first)

        recorder.mailbox.post([given[0].detach().abs().amax(), *_ids(root)], arrived)

    def _take(self, recorder: Recorder, kept: Kept, came: list[Tensor], *, first: bool) -> None:
        largest, sides = float(came[0]), came[1:]
        if len(sides) == 1:
            sides = list(sides[0].chunk(2))
        if first and largest <= NOTHING < APART <= kept.apart:
            kept.shown += 1
            kept.apart = 0.0
        kept.apart = max(kept.apart, largest)
        kept.rows += [set() for _ in sides[len(kept.rows) :]]
        kept.again += [0] * (len(kept.rows) - len(kept.again))
        for place, side in enumerate(sides):
            rows = [row.numpy().tobytes() for row in side.cpu()]
            if place < len(kept.before):
                kept.again[place] += sum(row in kept.before[place] for row in rows)
            kept.rows[place].update(rows if len(kept.rows[place]) < ROWS else ())
        if kept.shown >= RENEWED and kept.again and min(kept.again) >= AGAIN:
            kept.over = True
            kept.rows, kept.before = [], []
            recorder.offer(ReferenceSeen(recorder.step, 0, kept.since, renewed=kept.shown))


def _ids(root: Tensor) -> list[Tensor]:
    """(B, T) each: what embeddings were asked for on the way to the loss, positions aside."""
    found: dict[int, Tensor] = {}
    for node in nodes([root.grad_fn], most=DEEP):
        if type(node).__name__ == "EmbeddingBackward0":
            ids: Any = node._saved_indices
            if ids.dim() == 2 and ids.shape[0] >= PAIRS and not ids.is_floating_point():
                found[ids.data_ptr()] = ids
    return [ids for ids in found.values() if ids.stride(0)]


@torch.no_grad()
def _equal(one: nn.Module, other: nn.Module) -> bool:
    """Whether all weights are the same numbers, and not the same memory."""
    mine, theirs = list(one.parameters()), list(other.parameters())
    return len(mine) == len(theirs) > 0 and all(
        p.shape == q.shape and p.device == q.device and p.data_ptr() != q.data_ptr() and torch.equal(p, q.to(p.dtype))
        for p, q in zip(mine, theirs, strict=True)
    )
