"""Networks that were trained before, are done with learning, and answer at each step of one that is trained.

They stand beside that one, or are a part of it that runs without gradients: then its `train()` sets their mode too.

A teacher, a frozen encoder, a reference: whoever made them wants the answers that they give when they are used. Nothing
is said of a network that still moves (an average, the other half of a game), that may be random on purpose, or that is
asked several times about one batch (to see how far its answers spread).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sightline.attach.hook import Hook
from sightline.attach.onlookers.made_of import FAST
from sightline.attach.origins import ORIGINS, matrices
from sightline.attach.script.heap import outermost
from sightline.attach.script.watch import Models, Watched
from sightline.attach.towers import changes_with_mode
from sightline.guard.evidence import TeacherSeen
from sightline.guard.probes.call import Call
from sightline.guard.probes.twice import mode_gap

STEPS = 12  # optimizer steps of the other network at which it answered, and did not change
LONG = 64  # the same of a part that has a like beside it: an average may follow that one now and then
CALM = 64  # calls in evaluation mode after which nobody listens any more
MOST = 8  # networks listened to at a time
FEW = 4  # numbers of each matrix that are compared


@dataclass(eq=False)
class Teacher:
    """One of them. `step`: of the network that learns, at its last call; `asked`: what it was called with then."""

    module: weakref.ref[nn.Module]
    inside: bool = False
    needs: int = STEPS
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
        for module, whole in _still(alive, wanted):
            if len(self._known) >= MOST:
                return
            if id(module) in listened or not any(changes_with_mode(part) for part in module.modules()):
                continue
            if any(ORIGINS.given(p) for _, p in matrices(module)):
                twin = whole is not None and _has_like(whole, module)
                one = Teacher(weakref.ref(module), whole is not None, LONG if twin else STEPS)
                one.handle = module.register_forward_hook(self._hook(_Asked(self, one)), with_kwargs=True)
                self._known.append(one)

    def asked(self, one: Teacher, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """It was called."""
        live = [w for w in self._models.live if w.attachment is not None]
        others = [w for w in live if w.recorder.model is not module]  # that was trained itself before
        around = next((w for w in others if one.inside and _name(w, module)), None)
        learner = around or next((w for w in others if not _name(w, module)), None)
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
        if one.inside and (torch.is_grad_enabled() or not all(part.training for part in module.modules())):
            one.leave()  # a part of what learns, or of two modes on purpose
        elif torch.is_grad_enabled() and any(p.requires_grad for p in module.parameters()):
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
        if one.steps < one.needs:
            return
        one.leave()
        if not call.repeatable or learner.attachment is None:
            return
        with learner.recorder.silence():
            gap = mode_gap(call)
        lively = [name for name, part in call.model.named_modules() if part.training and changes_with_mode(part)]
        if gap:
            part = _name(learner, call.model)
            seen = TeacherSeen(step, type(call.model).__name__, one.steps, tuple(lively), gap, part)
            learner.attachment.show(seen)


@dataclass(frozen=True, slots=True)
class _Asked:
    """Forward hook of one of them."""

    all: Teachers
    one: Teacher

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        self.all.asked(self.one, module, args, kwargs)


def _name(watched: Watched, module: nn.Module) -> str:
    """What it is called in the watched model; "" if that does not have it."""
    return next((name for name, part in watched.recorder.model.named_modules() if part is module), "")


def _still(alive: Sequence[nn.Module], wanted: Collection[int]) -> Iterator[tuple[nn.Module, nn.Module | None]]:
    """Networks that hold nothing of `wanted`; and parts of others of which nothing is moved, with those others."""
    for module in outermost(alive):
        parameters = list(module.parameters())
        if parameters and not any(id(p) in wanted for p in parameters):
            yield module, None
        elif parameters:
            yield from ((part, module) for part in _parts(module, wanted))


def _parts(module: nn.Module, wanted: Collection[int]) -> Iterator[nn.Module]:
    """The outermost parts with parameters, of which none is both trainable and wanted."""
    for part in module.children():
        moved = [id(p) in wanted and p.requires_grad for p in part.parameters()]
        if any(moved):
            yield from _parts(part, wanted)
        elif moved and not isinstance(part, FAST):
            yield part


def _has_like(whole: nn.Module, part: nn.Module) -> bool:
    """Whether another module inside has parameters of the same shapes: a student of the same kind, a source."""
    shapes, own = [p.shape for p in part.parameters()], set(part.modules())
    return any([p.shape for p in one.parameters()] == shapes for one in whole.modules() if one not in own)
