"""Vectors that a loss compares with each other: are those of different samples as far apart as when the run began?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sightline.attach.onlookers.made_of import MadeOf, pooled, vectors
from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.attach.onlookers.outputs import few_rows, spread, spread_of_inputs
from sightline.guard.evidence import CollapseSeen, Vectors
from sightline.guard.probes.call import Call, differentiable

FIRST = 4  # steps that tell how a run began: of a model that is met in its first step, from the second on
EVERY = 8  # later ones come after an eighth of all steps so far: some fifty in a run of a thousand
LAST = 3  # readings shown of its end
SETS = 6  # of vectors in one step
EVEN = 0.1  # relative spread of gradients: below, the loss asks the same of all samples, as a critic's
UNIT = 1e-3  # of a length: vectors were made as long as each other, and a gradient along them moves nothing


@dataclass(slots=True)
class Kept:
    """A few rows of one output, if they are vectors, and of its gradient. `came`: the loss reached it."""

    values: Tensor | None
    gradient: Tensor | None = None
    came: bool = False


@dataclass(slots=True)
class Reading:
    """One step's. `inputs`: spread of what the vectors were made of; `made`: that itself was made by what learns."""

    step: int
    rows: int
    inputs: float
    made: bool
    seen: Vectors


@dataclass(slots=True)
class Readings:
    """The first ones and the last ones of a run."""

    began: list[Reading] = field(default_factory=list)
    recent: list[Reading] = field(default_factory=list)

    def told(self, steps: int) -> CollapseSeen | None:
        """The end of a run of so many steps, told by readings after the first eighth, the last in the second half."""
        if len(self.recent) < LAST or not self.began:
            return None
        first, last = self.recent[0], self.recent[-1]
        if 8 * first.step < steps or 2 * last.step < steps:
            return None
        inputs = min(one.inputs for one in (self.began if last.made else self.recent))
        began, ended = (tuple(one.seen for one in part) for part in (self.began, self.recent))
        return CollapseSeen(last.step, last.rows, began, ended, inputs)


class Collapse(Onlooker):
    """Reads, in some steps, what the loss was made of: outputs of modules inside, or else those of the model."""

    shows: ClassVar = ("CollapseSeen",)

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self._outer: list[Kept] = []  # of this step
        self._inner: list[Kept] = []
        self._inputs: tuple[Tensor, bool] | None = None
        self._readings = {True: Readings(), False: Readings()}  # of what was seen inside, and of the model's outputs
        self._next = 0
        self._made_of, self._roots = MadeOf(recorder), list[Any]()
        self._told = False  # somebody tells of backward passes
        self._failed, self._unfit = 0, False  # steps in which the loss was not made of vectors alone; this one

    def forward(self, call: Call, output: Any, *, training: bool, measured: bool) -> None:
        """Keep what it gave until its gradient has come."""
        if not training or not (measured or self._due(self.recorder.step)):
            return
        every = [given for given in differentiable(output) if given.is_floating_point()]
        self._inputs = _inputs(call, next((given for given in every if given.dim()), None))
        if self._made_of.listens and not self._told:
            self._hear_losses([given for given in every if not given.dim()])
        if every and len(self._outer) + len(every) <= SETS:
            self._outer += [_listen(given, self.recorder, fits=vectors(given)) for given in every]

    def _hear_losses(self, losses: Sequence[Tensor]) -> None:
        """Of a model that returns its loss; what others are made of nobody tells."""
        if not losses:
            self._made_of.forget()
        for loss in losses:
            place = len(self._roots)
            self._roots.append(loss.grad_fn)
            loss.register_hook(lambda _, place=place: self._begins(place))

    def _begins(self, place: int) -> None:
        if not self.recorder.muted and place < len(self._roots):
            self._look(self._roots[place])

    def backward(self, root: Tensor) -> None:
        """A backward pass is about to begin from a number."""
        self._told = True
        if self._made_of.listens and not self.recorder.muted:
            self._look(root.grad_fn)

    def _look(self, root: Any) -> None:
        """Listen for the gradients of what the loss at this node was made of."""
        found = self._made_of.under(root)
        self._made_of.forget()
        if not found or (len(found) == 1 and found[0].dim() > 2):  # a text's logits, as a rule
            self._unfit = True
        elif len(self._inner) + len(found) <= SETS:
            self._inner += [_listen(given, self.recorder, fits=True) for given in found]

    def before_step(self, optimizer: Optimizer, *, measured: bool) -> None:
        """All gradients of the step are there."""
        step = self.recorder.step
        for inside, kept in ((True, self._inner), (False, self._outer)):
            if not self._unfit and self._failed < FIRST:
                self._read(kept, self._readings[inside])
        if self._due(step) and (self._inner or self._outer or self._unfit):
            self._next = step + 1 + step // EVERY
        self._failed += self._unfit
        self._inner, self._outer, self._roots, self._unfit = [], [], [], False
        self._made_of.rest()
        self._arm(step + 1)

    def _due(self, step: int) -> bool:
        return step < FIRST or step >= self._next

    def _arm(self, step: int) -> None:
        """Listen inside the model in a step to come, unless its loss was found to be made of something else."""
        if self._due(step) and self._failed < FIRST:
            self._made_of.listen()

    def _read(self, kept: list[Kept], readings: Readings) -> None:
        reached = [one for one in kept if one.came]
        held = [(one.values, one.gradient) for one in reached if one.values is not None and one.gradient is not None]
        sets = [pooled(values.float(), gradient.float()) for values, gradient in held]
        alike = len({values.shape for values, _ in sets}) == 1 and len(sets) == len(reached)
        if len(sets) < 2 or not alike or self._inputs is None:
            return
        step, rows = self.recorder.step, len(sets[0][0])
        (inputs, made), sets = self._inputs, [(values, _across(values, grad)) for values, grad in sets]
        spreads = torch.stack([spread(nn.functional.normalize(values, dim=1)) for values, _ in sets])
        sizes = torch.stack([(values - values.mean(0)).square().mean().sqrt() for values, _ in sets])
        pulls = torch.stack([_pull(values, grad) for values, grad in sets])
        turned = torch.stack([(v * g).sum(1).square().mean().sqrt() for v, g in sets]) / pulls.clamp(min=1e-30)
        long = [grad * values.norm(dim=1, keepdim=True) for values, grad in sets]  # what moves a direction
        opposed = torch.stack(
            [_sum(one[1], other[1]) for one, other in combinations(sets, 2)]
            + [_left(one, other) for one, other in combinations(long, 2)]
        )

        def arrived(came: list[Tensor]) -> None:
            apart, far, across, pulled = (tuple(one.tolist()) for one in came[:4])
            seen = Vectors(apart, far, across, pulled, float(came[4]))
            reading = Reading(step, rows, float(came[5]), made, seen)
            if step < FIRST:
                readings.began.append(reading)
            else:
                readings.recent = [*readings.recent[1 - LAST :], reading]

        self.recorder.mailbox.post([spreads, sizes, turned, pulls, opposed.min(), inputs], arrived)

    def sleeps(self) -> bool:
        """Hear nothing of steps that are slept through."""
        self._made_of.rest()
        return False

    def woke(self, steps: int) -> None:
        """This step may be read."""
        self._arm(self.recorder.step)

    def released(self) -> None:
        """No step is to come."""
        self._made_of.rest()

    def close(self, *, broken: bool) -> None:
        """The end, told by what was seen inside, where that could be read."""
        self._made_of.rest()
        told = [self._readings[inside].told(self.recorder.step) for inside in (True, False)]
        if seen := next((one for one in told if one is not None), None):
            self.recorder.offer(seen)


def _listen(given: Tensor, recorder: Recording, *, fits: bool) -> Kept:
    kept = Kept(few_rows(given.detach()) if fits else None)

    def came(grad: Tensor) -> None:
        if not recorder.muted and not kept.came:
            kept.came, kept.gradient = True, few_rows(grad.detach()) if fits else None

    given.register_hook(came)
    return kept


def _inputs(call: Call, given: Tensor | None) -> tuple[Tensor, bool] | None:
    """Spread of what the samples were made of, and whether that carries a graph."""
    found = spread_of_inputs(call, given)
    return None if found is None else (found, call.made)


def _across(values: Tensor, grad: Tensor) -> Tensor:
    """The gradient; of vectors of length 1 without the part along them, which moves nothing."""
    lengths = values.norm(dim=1)
    along = (values * grad).sum(1, keepdim=True) * values
    return torch.where((lengths - 1).abs().max() < UNIT, grad - along, grad)


def _pull(values: Tensor, grad: Tensor) -> Tensor:
    """0-dim: root mean square of the lengths of vector and gradient, multiplied."""
    return (values.square().sum(1) * grad.square().sum(1)).mean().sqrt()


def _sum(one: Tensor, other: Tensor) -> Tensor:
    """0-dim: what is left of two gradients in their sum; 1 where they hardly differ from sample to sample."""
    left = _left(one, other)
    return torch.where(spread(one) < EVEN, torch.ones_like(left), left)


def _left(one: Tensor, other: Tensor) -> Tensor:
    return ((one + other).square().mean() / one.square().mean().clamp(min=1e-30)).sqrt()
