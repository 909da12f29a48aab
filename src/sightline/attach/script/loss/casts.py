"""Losses of models that autocast passed by: it was on around the loss alone, or around a forward that nobody calls.

The hooks of a model see only an autocast that is on while it is called. Each node of a graph knows its place in the
order in which nodes were made, and so whether that was while autocast was on.
"""

from __future__ import annotations

import functools
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

from sightline.attach.graph import nodes
from sightline.attach.hook import Hook
from sightline.attach.onlookers.casts import NODES, decorated, product
from sightline.attach.recorder import Recorder
from sightline.guard.evidence import AutocastSeen

LOOKS = 4  # measured backward passes that must all be alike
KEPT = 64  # blocks under autocast, the last ones: more than the micro-batches of most steps
LEAF = "AccumulateGrad"
FEWEST = 2  # products: a graph that shows fewer says nothing


@dataclass(frozen=True, slots=True)
class Block:
    """The time for which autocast to 16 bits was on, in nodes made by then."""

    device: str
    dtype: str
    begun: int
    ended: int


class Blocks:
    """Those of the process, since `install`: the outermost ones."""

    def __init__(self) -> None:
        self.kept = deque[Block](maxlen=KEPT)
        self._open: list[tuple[Any, int]] = []

    def install(self, fault: Callable[[Exception], None]) -> None:
        """Notice where autocast is turned on and off."""
        kind, entered, left = torch.autocast, Hook(self._entered, fault), Hook(self._left, fault)
        enter, leave = kind.__enter__, kind.__exit__

        @functools.wraps(enter)
        def entering(autocast: Any) -> Any:
            entered(autocast)
            return enter(autocast)

        @functools.wraps(leave)
        def leaving(autocast: Any, *args: Any) -> Any:
            left(autocast)
            return leave(autocast, *args)

        kind.__enter__, kind.__exit__ = entering, leaving  # type: ignore[method-assign]

    def _entered(self, autocast: Any) -> None:
        on = autocast._enabled and autocast.fast_dtype is not None and autocast.fast_dtype.itemsize == 2
        if on and not self._open and torch.is_grad_enabled():
            self._open.append((autocast, torch.autograd._get_sequence_nr()))

    def _left(self, autocast: Any) -> None:
        if self._open and self._open[-1][0] is autocast:
            _, begun = self._open.pop()
            dtype, ended = str(autocast.fast_dtype).removeprefix("torch."), torch.autograd._get_sequence_nr()
            if ended > begun:
                self.kept.append(Block(autocast.device, dtype, begun, ended))


class PassedBy:
    """Looks at the losses of a process that trains one model, in measured steps."""

    def __init__(self) -> None:
        self.blocks = Blocks()
        self._alike: WeakKeyDictionary[Recorder, set[int]] = WeakKeyDictionary()  # steps
        self._away: WeakKeyDictionary[Recorder, int] = WeakKeyDictionary()  # looks that found nothing of the kind

    def look(self, root: Tensor, recorder: Recorder) -> None:
        """A backward pass begins from `root`, in a measured step."""
        if self._away.get(recorder, 0) >= LOOKS:
            return
        seen = self._seen(root, recorder)
        if seen is None:
            self._away[recorder] = self._away.get(recorder, 0) + 1
            self._alike.pop(recorder, None)
            return
        steps = self._alike.setdefault(recorder, set())
        steps.add(recorder.step)
        if len(steps) >= LOOKS:
            self._away[recorder] = LOOKS
            recorder.mailbox.post([], lambda _: recorder.offer(seen))

    def _seen(self, root: Tensor, recorder: Recorder) -> AutocastSeen | None:
        """The formats of all products under `root`, if not one of them was made under the autocast asked for."""
        device = root.device.type
        blocks = [block for block in self.blocks.kept if block.device == device]
        wrapped = decorated(recorder.model)
        if not blocks and (wrapped is None or wrapped[0] != device):
            return None
        starts, inside = [block.begun for block in blocks], None
        made, elements = Counter[str](), Counter[str]()
        for node in nodes([root.grad_fn], most=NODES):
            if node is None or isinstance(node, BackwardCFunction):  # what a function of Python hides, nobody sees
                return None
            place = bisect_right(starts, number := node._sequence_nr()) - 1
            within = place >= 0 and number < blocks[place].ended
            found = product(node)
            if within and (found is not None or any(type(one).__name__ == LEAF for one, _ in node.next_functions)):
                return None  # the model is at work there
            if found is not None:
                made[found[0]] += 1
                elements[found[0]] += found[1]
            if within:
                inside = blocks[place]
        asked = (device, inside.dtype) if inside is not None else wrapped
        if asked is None or set(made) != {"float32"} or made["float32"] < FEWEST:
            return None
        beside = "the loss alone" if inside is not None else "a forward that is not called"
        return AutocastSeen(recorder.step, *asked, device, dict(made), dict(elements), beside)
