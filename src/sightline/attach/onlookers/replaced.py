"""Which layers took the place of others when the optimizer was already made?

It goes on holding the others, which nobody else does any more: no module in use has them and no gradient comes to
them. What stands in their place has one shape with them but for one side (rows for more tokens, another number of
classes, another width), gets gradients and rests. All that is outside must be of that kind: a body that is left out
on purpose has no counterpart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sightline.attach.alive import living, modules_alive
from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.attach.origins import ORIGINS
from sightline.guard.evidence import ReplacedSeen

LOOKS = 4  # measured steps in which the same parameters are seen outside
TURNS = 8  # steps from the first look to the last: optimizers that take turns have had theirs
VALUES = 4096  # elements of each that are compared
PARTS = 2  # matrices in place of one: a projector of one layer becomes one of two


@dataclass(eq=False)
class Outside:
    """A parameter in no optimizer of the model that has gradients. `kept`, `version`: as it was at the first look."""

    name: str
    parameter: Tensor
    kept: Tensor
    version: int

    def rests(self) -> bool:
        """Whether nobody has written to it since."""
        return self.parameter._version == self.version and torch.equal(_few(self.parameter), self.kept)


class Replaced(Onlooker):
    """Compares what an optimizer holds with what the model has, in a few steps, and again when that changes."""

    shows: ClassVar = ("ReplacedSeen",)

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self._outside: list[Outside] = []
        self._idle: list[Tensor] = []
        self._looks = self._first = 0
        self._over = False

    def again(self) -> None:
        """The model has other parameters, or another optimizer."""
        self._looks, self._outside, self._idle = 0, [], []

    def before_step(self, optimizer: Optimizer, *, measured: bool) -> None:
        """Its gradients are there. What it holds and the model has not is what to begin with: mostly there is none."""
        if not measured or self._over:
            return
        named = list(self.recorder.model.named_parameters())
        ours = {id(p) for _, p in named}
        held = [p for group in optimizer.param_groups for p in group["params"]]
        idle = [p for p in held if id(p) not in ours and (p.grad is None or not bool(p.grad.any()))]
        if not any(p.dim() > 1 for p in idle):
            return
        mine = {id(p) for p in held}
        free = {n: p for n, p in named if p.requires_grad and id(p) not in mine and not p.is_inference()}
        self._look({n: p for n, p in free.items() if p.grad is not None}, idle)

    def _look(self, outside: dict[str, nn.Parameter], idle: list[Tensor]) -> None:
        if not self._looks:
            self._first, self._idle = self.recorder.step, idle
            self._outside = [Outside(n, p, _few(p), p._version) for n, p in outside.items()]
        self._looks += 1
        self._outside = [one for one in self._outside if outside.get(one.name) is one.parameter]
        self._idle = [p for p in self._idle if any(p is other for other in idle)]
        if self._looks < LOOKS or self.recorder.step - self._first < TURNS:
            return
        if (seen := self._seen()) is not None:
            self._over = True
            self.recorder.offer(seen)
        self.again()

    def _seen(self) -> ReplacedSeen | None:
        every = {id(p) for one in living(Optimizer) for group in one.param_groups for p in group["params"]}
        left = [one for one in self._outside if id(one.parameter) not in every and one.rests()]
        used = in_use(self.recorder.model)
        foreign = [p for p in self._idle if id(p) not in used]
        pairs = [(one, _like(one.parameter, foreign)) for one in left if one.parameter.dim() > 1]
        matrices = sum(p.dim() > 1 for p in foreign)
        if not pairs or any(other is None for _, other in pairs) or len(pairs) > PARTS * matrices:
            return None
        if any(ORIGINS.optimized(one.parameter) for one in left):  # by one that is gone: trained before
            return None
        shapes = tuple((tuple(one.parameter.shape), tuple(p.shape)) for one, p in pairs if p is not None)
        numel, others = sum(one.parameter.numel() for one in left), sum(p.numel() for p in foreign)
        return ReplacedSeen(self.recorder.step, tuple(one.name for one in left), numel, shapes, others)

    def close(self, *, broken: bool) -> None:
        """What belongs to the host is let go."""
        self._outside, self._idle, self._over = [], [], True


def in_use(model: nn.Module) -> set[int]:
    """Ids of all parameters of living modules, but for single layers that stand alone: those were taken out."""
    every = modules_alive()
    inside = {id(child) for module in every for child in module.__dict__["_modules"].values() if child is not None}
    alone = [m for m in every if id(m) not in inside and not m.__dict__["_modules"] and m is not model]
    known = {id(m) for m in alone}
    own = (p for m in every if id(m) not in known for p in m.__dict__["_parameters"].values())
    return {id(p) for p in own if p is not None}


def _like(parameter: Tensor, others: Sequence[Tensor]) -> Tensor | None:
    """One of `others` that has its shape but for one side."""
    shape = parameter.shape
    fits = (p for p in others if p.dim() == len(shape) and sum(a != b for a, b in zip(p.shape, shape, strict=True)) < 2)
    return next(fits, None)


def _few(parameter: Tensor) -> Tensor:
    local = (parameter.to_local() if hasattr(parameter, "to_local") else parameter).detach()
    flat = local.reshape(-1)
    return flat[:: max(1, -(-flat.numel() // VALUES))].clone()
