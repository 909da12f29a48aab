"""Optimizers over parameters that another one holds too, which find nothing to do, while others learn from nobody.

Two networks that play against each other have an optimizer each. One that was made from the other's parameters steps
after backward passes that gave them nothing, and what did get gradients there is in no optimizer and stays as it is.
All of it is asked for: two optimizers of one model may take turns, or step on the same gradients, and a network that
only compares gets gradients that nobody wants.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sightline.attach.alive import modules_alive
from sightline.attach.hook import Hook
from sightline.attach.origins import ORIGINS
from sightline.attach.script.again import alike, few
from sightline.attach.script.heap import holders, outermost
from sightline.attach.script.watch import Models
from sightline.guard.evidence import HiddenSeen

STEPS = 16  # of an optimizer, all of them without a gradient of its own
MANY = 64  # optimizers that share parameters with a new one: more are no two halves of a game


@dataclass(eq=False)
class Twin:
    """One optimizer, and another that holds all that it does. `empty`: steps at which it found nothing new.

    `own`: its gradients at the last step of either. `rest`: who else had gradients at its first step, with the
    values of then; `pulled`: their gradients at the last step of either.
    """

    one: weakref.ref[Optimizer]
    other: weakref.ref[Optimizer]
    empty: int = 0
    done: bool = False  # its hooks stay, and do nothing: torch goes through them while they are called
    own: dict[int, Tensor] = field(default_factory=dict)
    rest: list[tuple[weakref.ref[nn.Parameter], Tensor]] = field(default_factory=list)
    pulled: dict[int, Tensor] = field(default_factory=dict)


class Twins:
    """Listens to them, from the making of the second one on. `fault`: told of errors of our own."""

    def __init__(self, models: Models, fault: Callable[[str], None]) -> None:
        self._models = models
        self._hook = lambda act: Hook(act, lambda error: fault(f"twins: {type(error).__name__}: {error}"))
        self._holding: dict[int, list[weakref.ref[Optimizer]]] = {}

    def made(self, optimizer: Optimizer) -> None:
        """An optimizer was made."""
        self._hook(self._made)(optimizer)

    def _made(self, optimizer: Optimizer) -> None:
        if any(type(p) not in (Tensor, nn.Parameter) for p in held(optimizer)):  # shards: each rank has some of them
            return
        mine = {id(p) for p in held(optimizer)}
        known = {id(o): o for key in mine for ref in self._holding.get(key, ()) if (o := ref()) is not None}
        known.pop(id(optimizer), None)
        for other in known.values() if len(known) <= MANY else ():
            theirs = {id(p) for p in held(other)}
            if mine and mine <= theirs:
                self._listen(Twin(weakref.ref(optimizer), weakref.ref(other)))
            if theirs and theirs <= mine:
                self._listen(Twin(weakref.ref(other), weakref.ref(optimizer)))
        for key in mine:
            refs = [ref for ref in self._holding.get(key, ()) if ref() not in (None, optimizer)]
            self._holding[key] = [*refs[-MANY:], weakref.ref(optimizer)]

    def _listen(self, twin: Twin) -> None:
        one, other = twin.one(), twin.other()
        if one is not None and other is not None:
            one.register_step_pre_hook(self._hook(_Told(self._step, twin)))
            other.register_step_pre_hook(self._hook(_Told(self._turn, twin)))

    def _turn(self, twin: Twin, other: Optimizer, arguments: Sequence[Any]) -> None:
        """The other one steps."""
        twin.own = gradients(held(other))
        twin.pulled = gradients(p for ref, _ in twin.rest if (p := ref()) is not None)

    def _step(self, twin: Twin, one: Optimizer, arguments: Sequence[Any]) -> None:
        """It steps itself."""
        own = gradients(held(one))
        fresh = any(not _equal(value, twin.own.get(key)) for key, value in own.items())
        if fresh or any(map(callable, arguments)):  # a closure makes them within the step
            twin.done = True
            return
        if not twin.rest:
            twin.rest = [(weakref.ref(p), few(p)) for p in _outside()]
        pulled = gradients(p for ref, _ in twin.rest if (p := ref()) is not None)
        new = {key for key, value in pulled.items() if not _equal(value, twin.pulled.get(key))}
        twin.empty += 1
        if twin.empty == 2:  # what had its gradients from elsewhere is no part of this
            twin.rest = [(ref, was) for ref, was in twin.rest if id(ref()) in new]
            pulled = {key: value for key, value in pulled.items() if key in new}
        twin.pulled = pulled
        rest = [(p, was) for ref, was in twin.rest if (p := ref()) is not None and alike(few(p), was)]
        if not new or 2 * len(new) < len(pulled) or (twin.empty > 1 and len(rest) < len(twin.rest)):
            twin.done = True
        elif twin.empty >= STEPS:
            twin.done = True
            self._tell(one, [p for p, _ in rest])

    def _tell(self, one: Optimizer, rest: list[nn.Parameter]) -> None:
        mine = {id(p) for p in held(one)}
        for watched in self._models.live:
            known = [p for p in watched.recorder.model.parameters() if p.requires_grad]
            if any(id(p) in mine for p in known):
                owners = outermost(holders(modules_alive(), {id(p) for p in rest}))
                places = tuple(sorted({type(owner).__name__ for owner in owners}))
                norms = [p.grad.float().norm().to("cpu") for p in rest if p.grad is not None]
                norm, numel = float(torch.stack(norms).norm()), sum(p.numel() for p in rest)
                of = sum(p.numel() for p in known)
                seen = HiddenSeen(watched.recorder.step, places, len(rest), numel, of, norm, twins=len(mine))
                watched.recorder.offer(seen)
                return


@dataclass(frozen=True, slots=True)
class _Told:
    """Hook before a step."""

    act: Callable[[Twin, Optimizer, Sequence[Any]], None]
    twin: Twin

    def __call__(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self.twin.done:
            self.act(self.twin, optimizer, (*args, *kwargs.values()))


def held(optimizer: Optimizer) -> list[Tensor]:
    """What it is to move."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def gradients(parameters: Any) -> dict[int, Tensor]:
    """A few numbers of each gradient that is not 0, by the parameter's id."""
    found = {id(p): p.grad.detach() for p in parameters if p.grad is not None and not p.grad.is_sparse}
    return {key: few(grad) for key, grad in found.items() if bool(grad.any())}


def _outside() -> list[nn.Parameter]:
    """What has gradients, is to learn, and was given to no optimizer."""
    every = {id(p): p for m in modules_alive() for p in m.__dict__["_parameters"].values() if p is not None}
    return [p for p in every.values() if p.requires_grad and p.grad is not None and not ORIGINS.optimized(p)]


def _equal(value: Tensor, was: Tensor | None) -> bool:
    return was is not None and alike(value, was)
