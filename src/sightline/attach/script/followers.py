"""Networks beside the one that is trained that follow it, step by step: averages of its weights, slow teachers.

No optimizer holds them, so nothing but the script saves and restores them. One that goes on from other values than it
had when the run was saved is told of, once it has been seen to follow.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field, replace

from torch import Tensor, nn
from torch.optim import Optimizer

from sightline.attach.origins import ORIGINS
from sightline.attach.script.heap import modules_alive
from sightline.attach.script.terms import alike, few
from sightline.attach.script.watch import Watched
from sightline.guard.evidence import ResumeSeen

STEPS = 4  # in a row at which it has moved: what is exchanged now and then is no average
Values = list[Tensor]


@dataclass(eq=False)
class Resumed:
    """A run that was resumed. `before`: what each copy had when it was saved; `first`, `now`: what it has since."""

    one: Watched
    seen: ResumeSeen
    before: list[Values]
    first: dict[int, tuple[weakref.ref[nn.Module], Values]]
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
        self._saved[name] = [_values(copy) for copy in copies(model)]

    def loaded(self, name: str, one: Watched, seen: ResumeSeen) -> None:
        """The first step after it was loaded comes next. `seen`: what else was restored."""
        before = self._saved.get(name)
        found = {id(copy): (weakref.ref(copy), _values(copy)) for copy in copies(one.recorder.model)} if before else {}
        if before and found:
            self._resumed = Resumed(one, seen, before, found, {key: values for key, (_, values) in found.items()})

    def stepping(self, optimizer: Optimizer) -> None:
        """An optimizer steps: who has moved since the last step, as the weights did?"""
        run = self._resumed
        if run is None or optimizer not in run.one.recorder.optimizers:
            return
        known = {key: copy for key, (ref, _) in run.first.items() if key in run.now and (copy := ref()) is not None}
        now = {key: _values(copy) for key, copy in known.items()}
        run.now = {key: values for key, values in now.items() if not _same(values, run.now[key])}
        run.steps += 1
        if run.now and run.steps < STEPS:
            return
        self._resumed = None
        other = [key for key in run.now if not any(_same(run.first[key][1], values) for values in run.before)]
        if run.now and len(other) == len(run.now) and run.one.attachment is not None:
            what = "the copy that follows the weights goes on with other values than it had when they were saved"
            run.one.attachment.show(replace(run.seen, differ=(("average", what),)))


def copies(model: nn.Module) -> list[nn.Module]:
    """Other modules of the same make, none of whose parameters any optimizer holds."""
    shapes, mine = _shapes(model), {id(p) for p in model.parameters()}
    return [
        other
        for other in modules_alive()
        if other is not model
        and type(other) is type(model)
        and _shapes(other) == shapes
        and not any(id(p) in mine or ORIGINS.optimized(p) for p in other.parameters())
    ]


def _shapes(model: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(p.shape)) for name, p in model.named_parameters()]


def _values(model: nn.Module) -> Values:
    return [few(p) for p in model.parameters()]


def _same(one: Values, other: Values) -> bool:
    return all(alike(a, b) for a, b in zip(one, other, strict=True))
