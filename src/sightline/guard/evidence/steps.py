"""What optimizer steps did, per parameter, and how far the run got."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from math import nan
from statistics import median

from sightline.guard.evidence.batches import LossSeen


@dataclass(frozen=True, slots=True)
class ParameterSeen:
    """One parameter in one optimizer step. Norms are L2.

    `moved`: whether any watched element changed (a strided sample of 4096, and the one with the largest gradient);
    `update_norm` is scaled up from the same sample. `grad_norm` is None without a gradient, and is taken as the
    optimizer got it (after clipping, and after unscaling where the host unscales).
    """

    name: str
    tower: str
    numel: int
    dtype: str
    trainable: bool
    optimized: bool
    learning_rate: float | None
    grad_norm: float | None
    weight_norm: float
    update_norm: float
    moved: bool


@dataclass(frozen=True, eq=False)
class StepSeen:
    """One optimizer step.

    Attributes:
        loss: mean of the micro-batches' losses as the host computed them; None when the door could not see one.
        tokens: supervised tokens of the step, where known.
        micro: what the loss supervised, per micro-batch (sampled steps only).
        means: of losses over places that a mask leaves, per micro-batch: how many, and what each weighs; () of others.
        carried: L2 norm of the gradients that were still there when the step's first backward pass began: 0 after a
            zero_grad, `previous_grad_norm` when the last step's gradients were left. None when not sampled. Both
            without parameters that had one of this very pass by then, as the loss uses them outside the forward pass.
        strayed: L2 norm of gradients that were cleared before a pass through these parameters into the network that
            made their inputs, and were there when, after that network's step, their own pass began. None without one.
        met: L2 norms of the gradients of all other parameters that were there when each of its backward passes began.
        parameters: one entry per parameter; empty on steps that were not sampled.
        first_non_finite: the first module whose output was not finite, told once a loss or gradient was not.
        spoiled: the weights themselves were not finite when the loss was found not to be.
        first_gradient: the operation of a backward pass (this step's, or the last one's that had such) which was the
            first to make NaN or infinity of finite gradients, where the loss was finite.
        optimizer: which of the run's optimizers stepped, in the order in which they were first seen.
    """

    step: int
    loss: float | None = None
    tokens: int | None = None
    micro: tuple[LossSeen, ...] = ()
    means: tuple[tuple[int, float], ...] = ()
    carried: float | None = None
    previous_grad_norm: float | None = None
    strayed: float | None = None
    met: tuple[float, ...] = ()
    parameters: tuple[ParameterSeen, ...] = ()
    first_non_finite: str | None = None
    spoiled: bool = False
    first_gradient: str | None = None
    optimizer: int = 0

    @cached_property
    def _by_tower(self) -> dict[str, tuple[ParameterSeen, ...]]:
        """Sorted once: many checks ask, and each asks of many steps."""
        found: dict[str, list[ParameterSeen]] = {}
        for p in self.parameters:
            found.setdefault(p.tower, []).append(p)
        return {name: tuple(parts) for name, parts in found.items()}

    def tower(self, name: str) -> tuple[ParameterSeen, ...]:
        """The parameters of one tower, or of a module by its dotted name."""
        return self._by_tower.get(name) or tuple(p for p in self.parameters if p.name.startswith(f"{name}."))

    @property
    def towers(self) -> tuple[str, ...]:
        """The towers measured in this step, in model order."""
        return tuple(self._by_tower)

    def grad_norm(self, tower: str | None = None) -> float | None:
        """Gradient norm of a tower or of the whole model; None where there is no gradient."""
        return _norm(p.grad_norm for p in self.parameters if tower in (None, p.tower))

    def update_ratio(self, tower: str) -> float | None:
        """Norm of the update over norm of the weights of what `tower` has optimized (healthy: about 1e-3)."""
        held = [p for p in self.tower(tower) if p.optimized]
        weight = _norm(p.weight_norm for p in held)
        update = _norm(p.update_norm for p in held)
        return update / weight if weight and update is not None else None


@dataclass(frozen=True, slots=True)
class OutsideSeen:
    """The gradient of a parameter that no output of the model tells of, once a step's backward passes are over.

    Attributes:
        name: in the model, or its shape where only the optimizer holds it.
        left: L2 norm of what the optimizer's last step had left; `now`: of the gradient; `apart`: of the difference
            between the gradient and all that came in these passes with what was left.
    """

    step: int
    name: str
    left: float
    now: float
    apart: float


@dataclass(frozen=True, slots=True)
class LastBatchSeen:
    """Steps of as many backward passes each, on batches that a loader gave one after the other, one a pass, with
    the same weights; and what the optimizer got was parallel to what the last pass had left.

    Attributes:
        steps: their numbers, of measured ones in a row.
    """

    step: int
    passes: int
    steps: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class History:
    """The recent steps, oldest first, since the set-up last changed: at most 512, and those the guard slept through
    are not among them. Of the measured ones the first 8 and the last 24 have their parameters. `before`: the last ones
    under other set-ups, without parameters.
    """

    steps: tuple[StepSeen, ...]
    before: tuple[StepSeen, ...] = ()

    @property
    def step(self) -> int:
        """The last step's number."""
        return self.steps[-1].step

    @cached_property
    def measured(self) -> tuple[StepSeen, ...]:
        """The steps whose parameters were measured."""
        return tuple(s for s in self.steps if s.parameters)

    def warming(self, over: int) -> bool:
        """Whether a rate has risen in the last measured steps. Small weights that are multiplied with each other, as
        those of attention's scores are, have yet to grow then."""
        sides = self.measured[-over:][:1], self.measured[-1:]
        first, last = ({p.name: p.learning_rate or 0.0 for step in side for p in step.parameters} for side in sides)
        return any(rate > first.get(name, rate) for name, rate in last.items())

    def fell(self, *, to: float, over: int) -> bool:
        """Whether the median loss of the last measured steps is at most this share of that of the first ones."""
        first, last = self._ends(over)
        return last <= to * first

    def stands(self, *, within: float, over: int) -> bool:
        """Whether the median loss of the last measured steps is as that of the first ones, by this share of it."""
        first, last = self._ends(over)
        return abs(last - first) <= within * abs(first)

    def _ends(self, over: int) -> tuple[float, float]:
        """The median loss of the first measured steps and of the last ones; NaN where it was not seen."""
        losses = [step.loss for step in (*self.measured[:over], *self.measured[-over:]) if step.loss is not None]
        return (median(losses[:over]), median(losses[over:])) if len(losses) == 2 * over else (nan, nan)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the run got. `closed`: it is over, and not by an error; `idle`: then, parameters of the model that are
    in the hands of optimizers alone that never stepped, while others did.

    Counts are since attaching: `forwards` and `steps` of all steps, `backwards` of those that were heard. Before the
    first optimizer step, all are heard.
    """

    forwards: int
    backwards: int
    steps: int
    closed: bool
    accumulation: int | None = None
    idle: tuple[str, ...] = ()

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return self.steps


def _norm(parts: Iterable[float | None]) -> float | None:
    """The L2 norm of a whole from those of its parts; None when every part is None."""
    seen = [part for part in parts if part is not None]
    return sum(part * part for part in seen) ** 0.5 if seen else None
