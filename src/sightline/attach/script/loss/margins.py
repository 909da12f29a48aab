"""Preferences that stay at nothing: each pair's margin under the sigmoid of a loss is zero while the policy moves.

The difference of a policy and itself is zero, whatever the pair. A constant loss tells that too (`own_reference.py`),
but not where another term is added to it, and not where parts of the policy are called one by one. The graph keeps what
the sigmoid was given. A copy equals its policy before the first step alone. That the policy moves is told by its
weights; adapters begin at zero, and move nothing to speak of for a while, so a model with frozen parameters is asked.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from sightline.attach.graph import nodes
from sightline.attach.onlookers.own_reference import First
from sightline.attach.recorder import Recorder
from sightline.attach.script.again import few
from sightline.guard.evidence import ReferenceSeen
from sightline.guard.probes.drift import answers_now, drift

MOST = 64  # nodes under a loss
PAIRS = 2  # of a batch, at least: one number may be anything
STEPS = 5  # measured, with no margin in any of them
AWAY = 2  # looks that found margins: there is no more to see
NOTHING = 1e-5  # of a margin: kernels that differ with and without gradients leave less, times beta
MOVED = 1e-3  # of the weights' size, in half of the matrices: log probabilities move by more than that
MATRICES = 32  # that are looked at
FAR = 1e-2  # of a few answers, mostly logits: log probabilities of texts differ by as much, times beta by 1e-3
SIGMOIDS = ("LogSigmoidBackward0", "SoftplusBackward0")


@dataclass(slots=True)
class Kept:
    """One model's losses. `first`: a few numbers of its matrices at the first look; `asked`: a pass, and its answers
    then, of a model of which some is frozen."""

    since: int = 0
    steps: set[int] = field(default_factory=set)
    first: list[Tensor] = field(default_factory=list)
    asked: First | None = None


class Margins:
    """Looks at the losses of a process that trains one model, in measured steps."""

    def __init__(self) -> None:
        self._kept: WeakKeyDictionary[Recorder, Kept] = WeakKeyDictionary()
        self._away: WeakKeyDictionary[Recorder, int] = WeakKeyDictionary()  # looks that found margins
        self._over: WeakKeyDictionary[Recorder, bool] = WeakKeyDictionary()

    def look(self, root: Tensor, recorder: Recorder) -> None:
        """A backward pass begins from `root`, in a measured step."""
        if recorder in self._over:
            return
        given = [one for node in nodes([root.grad_fn], most=MOST) if (one := given_to(node)) is not None]
        if len(given) != 1 or given[0].numel() < PAIRS:
            return
        number, values = recorder.step, _few(recorder.model.parameters())

        def arrived(came: list[Tensor]) -> None:
            if recorder not in self._over:
                self._take(recorder, number, float(came[0]), came[1:])

        recorder.mailbox.post([given[0].detach().abs().amax(), *values], arrived)

    def _take(self, recorder: Recorder, step: int, largest: float, values: list[Tensor]) -> None:
        if not largest <= NOTHING:  # a copy is its policy's equal before the first step
            self._kept.pop(recorder, None)
            self._away[recorder] = self._away.get(recorder, 0) + 1
            if self._away[recorder] >= AWAY:
                self._over[recorder] = True
            return
        kept = self._kept.get(recorder)
        if kept is None:
            kept = self._kept[recorder] = Kept(step, first=values, asked=_asked(recorder))
        kept.steps.add(step)
        if len(kept.steps) >= STEPS and _moves(recorder, kept, values):
            self._over[recorder] = True
            del self._kept[recorder]
            shared = sum(p.numel() for p in recorder.model.parameters() if p.requires_grad)
            seen = ReferenceSeen(recorder.step, shared, kept.since, steps=len(kept.steps), margin=largest)
            recorder.offer(seen)


def _asked(recorder: Recorder) -> First | None:
    """The last pass, and what the model says to it now, where some of it is frozen."""
    call = recorder.last_call
    if call is None or not call.repeatable or all(p.requires_grad for p in recorder.model.parameters()):
        return None
    with recorder.silence():
        few = answers_now(call)
    return None if few is None else First.of(call, few)


def _moves(recorder: Recorder, kept: Kept, values: list[Tensor]) -> bool:
    if all(p.requires_grad for p in recorder.model.parameters()):
        return moved(kept.first, values)
    call = kept.asked.call() if kept.asked is not None else None
    if kept.asked is None or call is None:
        return False
    with recorder.silence():
        apart = drift(call, kept.asked.few)
    return apart is not None and apart > FAR


def moved(first: list[Tensor], now: list[Tensor]) -> bool:
    """Whether half of the matrices have moved by more than a rounding or two."""
    far = [
        float((one - other).norm()) > MOVED * float(one.norm()) > 0.0
        for one, other in zip(first, now, strict=False)
        if one.shape == other.shape
    ]
    return len(first) == len(now) == len(far) and 2 * sum(far) > len(far)


def _few(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """A few numbers of each of the first matrices, as they are now, on their device."""
    return [few(p).float() for p in parameters if p.dim() > 1][:MATRICES]


@torch.no_grad()
def given_to(node: Any) -> Tensor | None:
    """What a logarithm of a sigmoid was given: a number for each pair, however it is written."""
    name = type(node).__name__
    if name in SIGMOIDS:
        given = node._saved_self
    elif name == "LogBackward0" and type(node.next_functions[0][0]).__name__ == "SigmoidBackward0":
        given = torch.logit(node.next_functions[0][0]._saved_result)
    else:
        return None
    return given if isinstance(given, Tensor) and given.dim() == 1 else None
