"""What stands beside the model that is trained and follows it, step by step: averages of its weights, slow teachers.

Modules of the same make, or dictionaries and lists of tensors with the same shapes. No optimizer holds them, so nothing
but the script saves and restores them. One that goes on from other values than it had when the run was saved is told
of, once it has been seen to follow.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sightline.attach.alive import modules_alive
from sightline.attach.origins import ORIGINS
from sightline.attach.script.again import alike, few
from sightline.attach.script.heap import containers_alive
from sightline.attach.script.watch import Watched
from sightline.guard.evidence import ResumeSeen

STEPS = 4  # in a row at which it has moved: what is exchanged now and then is no average
TOWARDS = 0.5  # cosine between its move and the way to the weights: 1 but for rounding; gradients have about 0
Values = list[Tensor]
Copy = Callable[[], list[Tensor]]


@dataclass(eq=False)
class Resumed:
    """A run that was resumed. `before`: what each copy had when it was saved; `first`, `now`: what it has since."""

    one: Watched
    seen: ResumeSeen
    before: list[Values]
    first: list[tuple[Copy, Values]]
    now: dict[int, Values] = field(default_factory=dict)
    steps: int = 0


class Followers:
    """Compares copies of a model at a save with those at the first steps after it was loaded."""

    def __init__(self) -> None:
        self._saved: dict[str, list[Values]] = {}
        self._resumed: Resumed | None = None

    @property
    def waiting(self) -> bool:
        """Whether steps are to be heard."""
        return self._resumed is not None

    def saved(self, name: str, model: nn.Module) -> None:
        """A model was saved under `name`."""
        self._saved[name] = [_values(copy()) for copy in copies(model)]

    def loaded(self, name: str, one: Watched, seen: ResumeSeen) -> None:
        """The first step after it was loaded comes next. `seen`: what else was restored."""
        before = self._saved.get(name)
        found = [(copy, _values(copy())) for copy in copies(one.recorder.model)] if before else []
        if before and found:
            self._resumed = Resumed(one, seen, before, found, {i: values for i, (_, values) in enumerate(found)})

    def stepping(self, optimizer: Optimizer) -> None:
        """An optimizer steps: who has moved since the last step, after the weights?"""
        run = self._resumed
        if run is None or optimizer not in run.one.recorder.optimizers:
            return
        weights = _values(_of_module(run.one.recorder.model, run.one.recorder.model))
        now = {place: _values(run.first[place][0]()) for place in run.now}
        run.now = {place: values for place, values in now.items() if _follows(run.now[place], values, weights)}
        run.steps += 1
        if run.now and run.steps < STEPS:
            return
        self._resumed = None
        other = [place for place in run.now if not any(_same(run.first[place][1], values) for values in run.before)]
        if run.now and len(other) == len(run.now) and run.one.attachment is not None:
            what = "the copy that follows the weights goes on with other values than it had when they were saved"
            run.one.attachment.show(replace(run.seen, compared=("average",), differ=(("average", what),)))


def copies(model: nn.Module) -> list[Copy]:
    """Ways to what else has values for all that `model` learns, none of which any optimizer holds."""
    shapes, learned = _shapes(model), _learned(model, model)
    mine = {p.data_ptr() for p in model.parameters()}
    modules = [m for m in modules_alive() if m is not model and type(m) is type(model) and _shapes(m) == shapes]
    inside = {id(p) for module in modules for p in module.parameters()}
    kept = containers_alive({name: p.shape for name, p in learned.items()})
    every: list[Copy] = [functools.partial(_of_module, model, module) for module in modules]
    loose: list[Copy] = [functools.partial(_of_container, one, tuple(learned)) for one in kept]
    every += [copy for copy in loose if not any(id(tensor) in inside for tensor in copy())]
    return [copy for copy in every if not any(t.data_ptr() in mine or ORIGINS.optimized(t) for t in copy())]


def _of_container(kept: Any, names: Sequence[str]) -> list[Tensor]:
    """What it holds now of what it held when it was found."""
    every = list(kept) if isinstance(kept, list) else [dict.get(kept, name) for name in names]
    return [tensor for tensor in every if isinstance(tensor, Tensor)]


def _of_module(model: nn.Module, copy: nn.Module) -> list[Tensor]:
    return list(_learned(model, copy).values())


def _learned(model: nn.Module, copy: nn.Module) -> dict[str, Tensor]:
    """What `model` learns, by name, as `copy` has it, which may be frozen."""
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    return {name: p for name, p in copy.named_parameters() if name in names}


def _shapes(model: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(p.shape)) for name, p in model.named_parameters()]


def _values(tensors: list[Tensor]) -> Values:
    return [few(tensor) for tensor in tensors]


def _same(one: Values, other: Values) -> bool:
    return len(one) == len(other) and all(map(alike, one, other))


def _follows(old: Values, new: Values, weights: Values) -> bool:
    """Whether it went a part of the way to the weights. What became equal to them is no average, but a note of them."""
    if [t.shape for t in new] != [t.shape for t in weights] or _same(old, new):
        return False
    was, now, goal = (torch.cat([t.double().cpu() for t in values]) for values in (old, new, weights))
    return not torch.equal(now, goal) and bool(torch.cosine_similarity(now - was, goal - was, dim=0) > TOWARDS)
