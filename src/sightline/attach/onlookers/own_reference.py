"""A policy that is its own reference: a hand-written preference loss that says the same of every batch.

The difference of a policy and itself is zero, whatever the pair, and so the loss is a constant: -log sigmoid(0) = ln 2
of DPO, 1 of a hinge, 1/(2 beta)^2 of IPO. If each step runs the trained model a second time without gradients on what
it was just trained on, the two answer alike however far they have moved, and the loss stays what it was to the last
bits, then the second run stood for the reference. A copy equals its policy before the first step alone; an adapter that
is switched off, or weights that hardly move yet, do not follow. A constant of zero is that of a policy gradient whose
ratio is one by design, and losses of few bits are equal by chance.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar
from weakref import WeakSet, ref

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.attach.open_step import OpenStep
from sightline.guard.evidence import ReferenceSeen
from sightline.guard.probes.call import Call
from sightline.guard.probes.drift import drift, few_answers, gap

STEPS = 4  # with the same loss, if the answers have moved; and at twice as many each time that they have not yet
BLIND = 8  # if they cannot be asked for again
MOVED = 1e-3  # of answers, mostly logits: real margins of as much move the loss by 1e-5 and more
ALONG = 0.1  # of that: how far the two passes of a step may be apart
EXACT = 1e-6  # float32 rounding of ln 2
LEAST = 1e-3  # of a constant that is none of a policy gradient
FIRST = 64  # steps of an optimizer that were heard, within which it must show: from then on nothing is kept
WIDE = (torch.float32, torch.float64)
Place = tuple[int, torch.Size]


@dataclass(frozen=True, slots=True)
class First:
    """A pass, and a few of its answers. The model is not kept alive by it. `versions`: of its tensors, as they were."""

    model: ref[nn.Module]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    few: Tensor
    versions: list[int]

    @classmethod
    def of(cls, call: Call, few: Tensor) -> First:
        """The pass that gave these answers."""
        return cls(ref(call.model), call.args, call.kwargs, few, _versions(call))

    def call(self) -> Call | None:
        """It again, if that is possible."""
        model = self.model()
        call = Call(model, self.args, self.kwargs) if model is not None else None
        return call if call is not None and call.repeatable and _versions(call) == self.versions else None


class OwnReference(Onlooker):
    """Looks for passes without gradients on the tensors of the step's training passes."""

    shows: ClassVar = ("ReferenceSeen",)

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        # where the tensors lie that the passes of this step were given -> a few of the answers
        self._trained: dict[Place, Tensor | None] = {}
        self._bare: dict[Place, Tensor | None] = {}
        self._few: Tensor | None = None  # of the answers of the last training pass
        self._optimizers = WeakSet[Optimizer]()
        self._left, self._wide = FIRST, False
        self._anew(varied=False)

    def _anew(self, *, varied: bool) -> None:
        """From the next step on. `varied`: the loss was another one before, with this optimizer."""
        self._varied, self._steps, self._next = varied, list[OpenStep](), STEPS
        self._since = 0
        self._first: First | None = None

    def forward(self, call: Call, output: Any, *, training: bool, measured: bool) -> None:
        """Note what the pass was given, and gave. Which of the two comes first is the host's choice."""
        if not self._left:
            return
        few = few_answers(output)
        places = dict.fromkeys(((t.data_ptr(), t.shape) for t in _tensors((*call.args, *call.kwargs.values()))), few)
        (self._trained if training else self._bare).update(places)
        if training:
            self._few = few

    def backward(self, root: Tensor) -> None:
        """Of how many bits the loss is."""
        self._wide = root.dtype in WIDE

    def after_step(self, optimizer: Optimizer, *, measured: bool) -> None:
        """Was it the same again? With a new optimizer another stage begins, such as preferences after examples."""
        if optimizer not in self._optimizers:
            self._optimizers.add(optimizer)
            self._left = FIRST + 1
            self._anew(varied=False)
        self._left = max(0, self._left - 1)
        pairs = [(self._trained[place], few) for place, few in self._bare.items() if place in self._trained]
        if pairs and self.recorder.stepped:
            self._take(self.recorder.last_call)
            self._judge(*pairs[-1])
        elif self._left and self._steps:
            self._anew(varied=True)
        if not self._left:
            self._first = None
        self._trained.clear()
        self._bare.clear()
        self._few = None

    def released(self) -> None:
        """What is kept is of no more use."""
        self._left, self._first = 0, None

    def _take(self, call: Call | None) -> None:
        if not self._steps:
            self._since = self.recorder.step - 1
            if call is not None and call.forward is None and self._few is not None:
                self._first = First.of(call, self._few)
        self._steps.append(self.recorder.stepped[-1][0])

    def _judge(self, trained: Tensor | None, bare: Tensor | None) -> None:
        losses = [step.loss for step in self._steps]
        known = [loss for loss in losses[: losses.index(None) if None in losses else None] if loss is not None]
        if not known:
            return
        constant = known[0]
        if any(not abs(loss - constant) <= EXACT * max(1.0, abs(constant)) for loss in known):
            self._anew(varied=True)
        elif len(known) >= self._next and constant > LEAST:
            self._next *= 2
            half = abs(constant - math.log(2)) <= EXACT
            if self._follows(trained, bare, half=half, steps=len(known)):
                self._left, self._first = 0, None
                self._tell(constant, len(known))

    def _follows(self, trained: Tensor | None, bare: Tensor | None, *, half: bool, steps: int) -> bool:
        """Whether the answers have moved since the first of the steps, those of the second passes with them."""
        apart, first = gap(trained, bare), self._first
        call = first.call() if first is not None else None
        if first is None or call is None or apart is None:
            return half and steps >= BLIND
        if not half and (self._varied or not self._wide or first.few.dtype not in WIDE):
            return False
        with self.recorder.silence():
            moved = drift(call, first.few)
        return moved is not None and moved > MOVED and apart <= ALONG * moved

    def _tell(self, loss: float, steps: int) -> None:
        shared = sum(p.numel() for p in self.recorder.model.parameters() if p.requires_grad)
        self.recorder.offer(ReferenceSeen(self.recorder.step, shared, self._since, loss=loss, steps=steps))


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor) and value.dim() and value.layout is torch.strided:
            yield value
        elif isinstance(value, Mapping):
            yield from _tensors(value.values())


def _versions(call: Call) -> list[int]:
    """How often each tensor of the call was written to."""
    every = _tensors((*call.args, *call.kwargs.values()))
    return [0 if tensor.is_inference() else tensor._version for tensor in every]
