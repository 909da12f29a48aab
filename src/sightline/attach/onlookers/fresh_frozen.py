"""Which frozen parameters did nobody ever give a value, though the loss is made through them?

A random part that is frozen is often meant: features of random towers, random targets, perceptual losses. It is not
where it stands straight behind parts that were loaded or trained, and in front of others, or of the loss.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from typing import Any, ClassVar

from torch import nn
from torch.optim import Optimizer

from sightline.attach.onlookers.cut_off import Question
from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.attach.origins import ORIGINS, SMALLEST, matrices
from sightline.attach.script.heap import compiled_parts
from sightline.guard.evidence import FreshFrozenSeen
from sightline.guard.evidence.fresh_frozen import Place
from sightline.guard.probes.call import Call
from sightline.guard.probes.flow import Flow
from sightline.guard.probes.reach import tensors_of

LOOKS = 4  # measured training forwards before it is asked: what takes turns in a first phase has had its turn
TRIES = 8  # of them in which no pass could be asked
HEAD = 3  # matrices of an output layer that was forgotten; a random network of more is somebody's loss or target
SINGLY = 8  # matrices that are asked one by one


class FreshFrozen(Onlooker):
    """Looks for them once a stage; asks the flow through the model once."""

    shows: ClassVar = ("FreshFrozenSeen",)
    measured_only: ClassVar = True

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self._looks, self._over, self._told = 0, False, False
        self._learning: list[bool] = []  # which parameters did at the last look: another stage is asked anew
        self._question: Question | None = None

    def forward(self, call: Call, output: Any, *, training: bool, measured: bool) -> None:
        """Which outputs does the loss of this pass hang on?"""
        if not training or not measured or self._question is not None:
            return
        if (learning := [p.requires_grad for p in call.model.parameters()]) != self._learning:
            self._looks, self._over, self._learning = 0, self._told, learning
        if self._over:
            return
        self._looks += 1
        if self._looks > LOOKS + TRIES:
            self._over = True
        elif self._looks >= LOOKS and call.forward is None and call.repeatable:
            fresh, given = frozen(call.model)
            if not fresh or not given or compiled_parts(call.model):
                self._over = True
                return
            self._question = Question(call, fresh)
            self._question.listen(tensors_of(output), self._question.outputs)

    def before_step(self, optimizer: Optimizer, *, measured: bool) -> None:
        """The backward pass is over: ask, if a gradient came to any output."""
        if (question := self._question) is None:
            return
        self._question = None
        question.close()
        if not question.outputs:
            return
        self._over = True
        with self.recorder.silence(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of checkpointed parts whose inputs need no gradient: the question is ours
            found = stuck(question)
        if found is not None:
            self._tell(question.call.model, *found)

    def _tell(self, model: nn.Module, names: list[str], place: Place) -> None:
        numel = sum(model.get_parameter(name).numel() for name in names)
        plain = tuple(sorted({path for name in names for path in attributes(model, name)}))
        seen = FreshFrozenSeen(self.recorder.step, tuple(names), numel, place, len(frozen(model)[1]), plain)
        self._told = True
        self.recorder.mailbox.post([], lambda _: self.recorder.offer(seen))

    def close(self, *, broken: bool) -> None:
        """Listen no more."""
        if self._question is not None:
            self._question.close()
        self._question, self._over, self._told = None, True, True


def frozen(model: nn.Module) -> tuple[list[str], list[str]]:
    """Names of frozen matrices: as an initialiser left them, and loaded or trained."""
    found = [(name, p) for name, p in matrices(model) if not p.requires_grad]
    return [n for n, p in found if ORIGINS.fresh(p)], [n for n, p in found if ORIGINS.given(p)]


def stuck(question: Question) -> tuple[list[str], Place] | None:
    """Which of the fresh matrices stand where no random matrix is of use, and how."""
    model, places = question.call.model, question.outputs
    fresh, given = frozen(model)
    learning = [name for name, p in matrices(model) if p.requires_grad]
    flow = Flow(question.call, learning)
    if idle := _idle(model, flow, fresh, given, places):
        return idle, "idle"
    behind = sorted(flow.into(given, fresh))
    if len(behind) <= SINGLY:
        behind = [name for name in behind if flow.out([name], places, uncut=False)]
    if not behind or not flow.out(behind, places, uncut=False):
        return None
    ahead = [name for name in behind if flow.into([name], given)] if len(behind) <= SINGLY else behind
    if ahead and flow.into(ahead, given):
        return ahead, "between"
    last = [name for name in behind if flow.out([name], places)] if len(behind) <= SINGLY else []
    if not learning or not last:
        return (last, "alone") if last else None
    if told := [name for name in last if attributes(model, name)]:
        return told, "attribute"
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    judged = sorted(flow.into(trainable, last, uncut=False)) if len(last) <= HEAD else []
    return (judged, "behind") if judged else None


def _idle(
    model: nn.Module, flow: Flow, fresh: Sequence[str], given: Sequence[str], places: Collection[int]
) -> list[str]:
    """Fresh matrices beside frozen ones that are all zero and undo them, with these: a product that is 0 and stays so.

    Low-rank additions begin like that. Beside: of one module, or of two that are.
    """
    frozen = [(name, p) for name, p in matrices(model) if not p.requires_grad and p.numel() >= SMALLEST]
    zero = [name for name, p in frozen if any(_beside(name, other) for other in fresh) and not bool(p.any())]
    alone = [name for name in fresh if any(_beside(name, other) for other in zero)]
    if not alone or not flow.out(zero, places, uncut=False) or flow.out(alone, places, uncut=False):
        return []
    return [*alone, *zero] if flow.into(given, alone) else []


def _beside(one: str, other: str) -> bool:
    first, second = one.split("."), other.split(".")
    return first != second and len(first) == len(second) and first[: max(0, len(first) - 2)] == second[:-2]


def attributes(model: nn.Module, name: str) -> list[str]:
    """The modules around a parameter on which somebody set a plain ``requires_grad = True``: a.b.weight -> a.b, a."""
    parts = name.split(".")[:-1]
    above = [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
    return [path for path in above if model.get_submodule(path).__dict__.get("requires_grad") is True]
