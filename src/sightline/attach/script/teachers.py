"""Networks beside the one that is trained, which were trained before, are done with learning, and answer at each step.

A teacher, a frozen encoder, a reference: whoever made them wants the answers that they give when they are used. Nothing
is said of a network that still moves (an average, the other half of a game), that may be random on purpose, or that is
asked several times about one batch (to see how far its answers spread).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sightline.attach.hook import Hook
from sightline.attach.origins import ORIGINS, matrices
from sightline.attach.script.heap import outermost
from sightline.attach.script.watch import Models, Watched
from sightline.attach.towers import changes_with_mode
from sightline.guard.evidence import TeacherSeen
from sightline.guard.probes.call import Call
from sightline.guard.probes.twice import mode_gap

STEPS = 12  # optimizer steps of the other network at which it answered, and did not change
CALM = 64  # calls in evaluation mode after which nobody listens any more
MOST = 8  # networks listened to at a time
FEW = 4  # numbers of each matrix that are compared


@dataclass(eq=False)
class Teacher:
    """One of them. `step`: of the network that learns, at its last call; `asked`: what it was called with then."""

    module: weakref.ref[nn.Module]
    handle: Any = None
    values: list[Tensor] = field(default_factory=list)
    step: int = -1
    asked: weakref.ref[Tensor] | None = None
    steps: int = 0
    calm: int = 0

    def leave(self) -> None:
        """Listen no more."""
        if self.handle is not None:
            self.handle.remove()


class Teachers:
    """Listens to them, from the making of an optimizer of others on. `fault`: told of errors of our own."""

    def __init__(self, models: Models, fault: Callable[[str], None]) -> None:
        self._models, self._known = models, list[Teacher]()
        models.others.append(lambda: [module for one in self._known if (module := one.module()) is not None])
        self._hook = lambda act: Hook(act, lambda error: fault(f"teacher: {type(error).__name__}: {error}"))

    def look(self, alive: Sequence[nn.Module], wanted: Collection[int]) -> None:
        """An optimizer was made that is to move `wanted` (ids); these are the modules that there are."""
        self._known = [one for one in self._known if one.module() is not None]
        listened = {id(one.module()) for one in self._known}
        for module in outermost(alive):
            if len(self._known) >= MOST:
                return
            parameters = list(module.parameters())
            mine = id(module) in listened or not parameters or any(id(p) in wanted for p in parameters)
            if mine or not any(changes_with_mode(part) for part in module.modules()):
                continue
            if any(ORIGINS.given(p) for _, p in matrices(module)):
                one = Teacher(weakref.ref(module))
                one.handle = module.register_forward_hook(self._hook(_Asked(self, one)), with_kwargs=True)
                self._known.append(one)

    def asked(self, one: Teacher, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """It was called."""
        learner = next((w for w in self._models.live if w.attachment is not None and not _has(w, module)), None)
        if learner is None or learner.recorder.muted or not learner.recorder.step:
            return
        if not any(part.training and changes_with_mode(part) for part in module.modules()):
            one.calm += 1
            if one.calm >= CALM:
                one.leave()
            return
        step = learner.recorder.step
        first = next((v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)), None)
        again = first is not None and one.asked is not None and one.asked() is first
        one.asked = weakref.ref(first) if first is not None else None
        if torch.is_grad_enabled() and any(p.requires_grad for p in module.parameters()):
            one.step, one.steps = -1, 0  # it learns
        elif again:
            one.leave()
        elif step != one.step:
            self._counted(one, learner, Call(module, args, kwargs), step)

    def _counted(self, one: Teacher, learner: Watched, call: Call, step: int) -> None:
        now = [p.detach().reshape(-1)[:FEW].clone() for _, p in matrices(call.model)]
        if one.values and not (len(now) == len(one.values) and all(map(torch.equal, now, one.values))):
            one.leave()  # it still learns, or follows what learns
            return
        near = one.step >= 0 and step - one.step == 1  # it is part of each step
        one.values, one.step, one.steps = now, step, one.steps + 1 if near else 0
        if one.steps < STEPS:
            return
        one.leave()
        if not call.repeatable or learner.attachment is None:
            return
        with learner.recorder.silence():
            gap = mode_gap(call)
        lively = [name for name, part in call.model.named_modules() if part.training and changes_with_mode(part)]
        if gap:
            seen = TeacherSeen(step, type(call.model).__name__, one.steps, tuple(lively), gap)
            learner.attachment.show(seen)


@dataclass(frozen=True, slots=True)
class _Asked:
    """Forward hook of one of them."""

    all: Teachers
    one: Teacher

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        self.all.asked(self.one, module, args, kwargs)


def _has(watched: Watched, module: nn.Module) -> bool:
    """Whether it is the watched model itself, or a part of it."""
    return any(part is module for part in watched.recorder.model.modules())
