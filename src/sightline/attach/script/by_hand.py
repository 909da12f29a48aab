"""Scripts that move their tensors themselves, without an optimizer of torch: ``with no_grad(): p -= lr * p.grad``.

Their gradients come of a backward pass, or are asked for by name (see `asked.py`).

Who moves a tensor along its gradient between two backward passes takes a step, whatever it is written with. The leaves
of the first losses are compared from one backward pass to the next; those that followed their gradients make up an
optimizer of our own, which does nothing, and whose steps are told when torch has counted writes to them. Where an
optimizer of torch is made, nothing of this is there any more.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from sightline.attach.hook import Hook
from sightline.attach.open_step import Loss
from sightline.attach.origins import ORIGINS
from sightline.attach.script.again import alike, few
from sightline.attach.script.asked import TWICE, Asked, Askings, Door, along, doors
from sightline.attach.script.loss.terms import variables
from sightline.attach.script.scout import Scout
from sightline.attach.script.watch import Models, Watched

LOOKS = (*range(1, 13), 16, 24, 32, 48, 64)  # backward passes after which leaves are compared with the next one
COMPARED = 8  # tensors whose values are compared where they are written to in a way that torch does not count


class ByHand:
    """Listens to the backward passes of a process, until an optimizer is made. `fault`: told of errors of our own."""

    def __init__(self, models: Models, scout: Scout, fault: Callable[[str], None]) -> None:
        self._models, self._scout = models, scout
        self._hook = lambda act: Hook(act, lambda error: fault(f"by hand: {type(error).__name__}: {error}"))
        self._inside, self._passes = False, 0
        self._plain: Callable[..., Any] | None = None
        self._wrapped: Callable[..., Any] | None = None
        self._leaves: list[weakref.ref[Tensor]] = []
        self._before: list[Leaf] = []
        self._followed: dict[int, tuple[weakref.ref[Tensor], int]] = {}
        self._hands: list[Hand] = []  # one for tensors that move together: halves of a game take turns
        self._askings = Askings(models, self._sure)
        self._doors: list[Door] = []

    def install(self) -> None:
        """Notice backward passes."""
        self._plain, begins, ended = torch.autograd.backward, self._hook(self._begins), self._hook(self._ended)
        plain = self._plain

        @functools.wraps(plain)
        def noticed(*args: Any, **kwargs: Any) -> Any:
            if self._inside or self._plain is None:
                return plain(*args, **kwargs)
            begins(args[0] if args else kwargs.get("tensors"))
            self._inside = True
            try:
                result = plain(*args, **kwargs)
            finally:
                self._inside = False
            ended()
            return result

        self._wrapped = torch.autograd.backward = noticed
        self._doors = doors(self._hear)
        for where, name, _, ours in self._doors:
            setattr(where, name, ours)
        self._scout.made.append(self._leave)

    def _hear(
        self,
        call: Callable[[], Any],
        made: Callable[[Any], Asked | None],
        asked: Any,
        own: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> Any:
        """`call`, which asks for gradients of `asked`: `made` of what it gives. `own`: the script's tensors in it."""
        if self._plain is None or self._inside or torch.compiler.is_compiling():
            return call()
        known: list[tuple[Watched, int]] = []
        self._hook(self._asks)(known)
        self._inside = True
        try:
            given = call()
        finally:
            self._inside = False
        self._hook(self._gave)(functools.partial(made, given), asked, own, known)
        return given

    def _asks(self, known: list[tuple[Watched, int]]) -> None:
        """Gradients are about to be asked for: did anything move meanwhile?"""
        self._models.backwards += 1
        for hand in self._hands:
            hand.arrives()
        known += [(one, _heard(one)) for one in self._models.live]

    def _gave(
        self,
        made: Callable[[], Asked | None],
        of: Any,
        own: Mapping[str, Tensor],
        known: list[tuple[Watched, int]],
    ) -> None:
        """These are the gradients."""
        if not self._hands and self._askings.sleeps(of):
            return
        asked = made()
        if asked is None:
            return
        ids = {id(own[place]): grad for place, grad in asked.grads.items() if place in own}
        mine = [hand for hand in self._hands if any(id(p) in ids for p in hand.tensors)]
        if not mine:
            self._askings.came(asked, own)
        for hand in mine:
            hand.ready(ids)
            for one, before in known:
                step = one.recorder.open_step if one in hand.those and one.attachment is not None else None
                if step is None:
                    continue
                step.asked = True
                if asked.loss is not None and _heard(one) == before:
                    step.hear(Loss.of(asked.loss))

    def _leave(self, optimizer: Optimizer | None = None) -> None:
        """There is an optimizer of torch, which takes the steps."""
        if self._plain is not None and torch.autograd.backward is self._wrapped:
            torch.autograd.backward = self._plain
        for where, name, plain, ours in self._doors:
            if getattr(where, name) is ours:
                setattr(where, name, plain)
        self._plain = None
        self._doors, self._hands, self._leaves, self._before = [], [], [], []
        self._askings.forget()

    def _begins(self, tensors: Any) -> None:
        """A backward pass begins: did anything move since the last one?"""
        self._passes += 1
        for hand in self._hands:
            hand.arrives()
            hand.meets()
        if self._passes > LOOKS[-1]:
            return
        moved, self._before = followed(self._before), []
        self._take(moved)
        if self._passes in LOOKS:
            roots = [tensors] if isinstance(tensors, Tensor) else tensors if isinstance(tensors, tuple | list) else []
            nodes = [t.grad_fn for t in roots if isinstance(t, Tensor) and t.grad_fn is not None]
            self._leaves = [weakref.ref(v) for node in nodes for v in variables(node) if v is not None]

    def _ended(self) -> None:
        for hand in self._hands:
            hand.ready()
        if self._leaves:
            alive = {id(leaf): leaf for ref in self._leaves if (leaf := ref()) is not None}
            self._before = [Leaf.of(leaf) for leaf in alive.values() if leaf.grad is not None]
            self._leaves = []

    def _take(self, moved: Sequence[Tensor]) -> None:
        """These moved between two backward passes, along their gradients."""
        for p in moved:
            ref, times = self._followed.get(id(p), (None, 0))
            self._followed[id(p)] = weakref.ref(p), times + 1 if ref is not None and ref() is p else 1
        self._sure([p for p in moved if self._followed[id(p)][1] >= TWICE])

    def _sure(self, sure: Sequence[Tensor]) -> None:
        """These are trained."""
        together = [hand for hand in self._hands if any(hand.holds(p) for p in sure)]
        new = [p for p in sure if not any(hand.holds(p) for hand in self._hands)]
        if new and not together:
            together = [Hand(self._models, self._scout)]
            self._hands += together
        if new:
            together[0].take(new)


@dataclass(slots=True)
class Leaf:
    """A leaf of a loss just after a backward pass. `values`, `grads`: a few of its numbers and of their gradients."""

    tensor: weakref.ref[Tensor]
    version: int
    values: Tensor
    grads: Tensor

    @classmethod
    def of(cls, leaf: Tensor) -> Leaf:
        assert leaf.grad is not None
        grad = leaf.grad.to_dense() if leaf.grad.is_sparse else leaf.grad
        return cls(weakref.ref(leaf), leaf._version, few(leaf), few(grad))


def followed(leaves: Sequence[Leaf]) -> list[Tensor]:
    """Those that moved since, if all of them together moved along their gradients, down or up."""
    moved, shift, pull = list[Tensor](), list[Tensor](), list[Tensor]()
    for leaf in leaves:
        tensor = leaf.tensor()
        if tensor is None or not torch.is_floating_point(tensor) or alike(now := few(tensor), leaf.values):
            continue
        moved.append(tensor)
        shift.append((now - leaf.values).float().to("cpu"))
        pull.append(leaf.grads.float().to("cpu"))
    return moved if moved and along(torch.cat(shift), torch.cat(pull)) else []


@dataclass(eq=False)
class Hand:
    """The tensors that a script moves, in the place of an optimizer that holds them."""

    models: Models
    scout: Scout
    param_groups: list[dict[str, Any]] = field(default_factory=list)
    state: dict[Tensor, Any] = field(default_factory=dict)
    _versions: list[int] = field(default_factory=list)
    _values: list[Tensor] = field(default_factory=list)
    _grads: dict[int, int] = field(default_factory=dict)  # id of a gradient -> how often it had been written to
    _counted: bool = False  # torch counts the writes to them: else (p.data -= ...) values are compared
    _passes: int = 0  # backward passes since its model is looked for
    _told: bool = False  # the gradients of the step to come were shown to whoever watches

    @property
    def tensors(self) -> list[Tensor]:
        """What it moves."""
        return [p for group in self.param_groups for p in group["params"]]

    def holds(self, tensor: Tensor) -> bool:
        """Whether it moves this one."""
        return any(p is tensor for p in self.tensors)

    def take(self, new: Sequence[Tensor]) -> None:
        """It moves these too."""
        self.param_groups.append({"params": list(new), "lr": None})
        ORIGINS.held(new)
        if len(self.param_groups) == 1:
            self.scout.wait(self)

    def ready(self, grads: Mapping[int, Tensor] = MappingProxyType({})) -> None:
        """A backward pass is over: what is there now is what the next step uses, if one comes next.

        `grads`: those that were asked for, by the ids of their tensors, which keep none themselves.
        """
        with _lent(self.tensors, grads):
            self._ready()

    def _ready(self) -> None:
        tensors = self.tensors
        self._versions = [p._version for p in tensors]
        here = [p for p in tensors[:COMPARED] if p.device.type == "cpu" and not self._counted]
        self._values = [few(p) for p in here]
        self._grads = {id(p.grad): p.grad._version for p in tensors if p.grad is not None}
        if not self.those and self._passes:
            self.scout.before_step(self)  # no module was called meanwhile that it may belong to
        self._passes += 1
        for one in self.those:
            self._joins(one)  # of plain tensors, just now
            one.recorder.gradients_ready(cast(Optimizer, self))
            self._told = True

    def _joins(self, one: Watched) -> None:
        """Somebody watches from now on, and has missed what was done until it was known who moves what."""
        if one.recorder.arriving is None:
            one.recorder.arriving = self.arrives
            one.recorder.step += TWICE
            one.recorder.forwards += TWICE

    def arrives(self) -> None:
        """A forward or a backward pass begins: if the tensors are no longer what they were, a step was taken."""
        for one in self.those:
            self._joins(one)
        if self._told and self._moved():
            self._told = False
            self.models.after_step(self, (), {})

    def meets(self) -> None:
        """A backward pass begins, and meets gradients. What a script wrote into them is its own affair."""
        grads = [p.grad for p in self.tensors if p.grad is not None]
        if any(self._grads.get(id(grad), grad._version) != grad._version for grad in grads):
            for one in self.those:
                if one.recorder.open_step is not None:
                    one.recorder.open_step.reworked = True

    @property
    def those(self) -> list[Watched]:
        """The models that it moves."""
        return [one for one in self.models.live if any(o is cast(Optimizer, self) for o in one.optimizers)]

    def _moved(self) -> bool:
        tensors = self.tensors
        if any(p._version != was for p, was in zip(tensors, self._versions, strict=False)):
            self._counted = True
            return True
        here = [p for p in tensors[:COMPARED] if p.device.type == "cpu" and not self._counted]
        return any(not alike(few(p), was) for p, was in zip(here, self._values, strict=False))


@contextmanager
def _lent(tensors: Sequence[Tensor], grads: Mapping[int, Tensor]) -> Iterator[None]:
    """Inside, those without a gradient have the one that was asked for."""
    mine = [p for p in tensors if p.grad is None and id(p) in grads]
    for p in mine:
        p.grad = grads[id(p)]
    try:
        yield
    finally:
        for p in mine:
            p.grad = None


def _heard(one: Watched) -> int:
    """How many losses the step in the making knows."""
    step = one.recorder.open_step if one.attachment is not None else None
    return 0 if step is None else len(step.losses) + len(step.unread) + len(step.told)
