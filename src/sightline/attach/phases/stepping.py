"""Optimizer steps: parameters just before and just after, and the step as evidence once all of it has arrived."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from sightline.attach.meter import Before, rates_of
from sightline.attach.open_step import OpenStep
from sightline.attach.phases.state import State
from sightline.guard.evidence import StepSeen
from sightline.guard.probes.non_finite import first_non_finite


class Stepping:
    """Hears every optimizer's step, and measures those of optimizers that hold parameters of the model."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._before: Before | None = None
        self._grad_norms: dict[int, tuple[int, float]] = {}

    def before(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Hook before any optimizer's step."""
        s = self._state
        if s.muted or not self._knows(optimizer):
            return
        with s.pace.timed():
            s.mailbox.open()
            step = s.open_step or (s.stepped[-1][0] if s.stepped else None)
            if step and step.non_finite is None and any(not math.isfinite(loss) for loss in step.losses):
                step.non_finite = self._name_non_finite()
            if not any(callable(value) for value in (*args[1:], *kwargs.values())):  # a closure runs inside the step
                self._look(optimizer, step)
            s.beside.stepping()

    def gradients_ready(self, optimizer: Optimizer) -> None:
        """A host's word from inside an optimizer's closure: the backward pass is over, the update comes next."""
        s = self._state
        if not s.muted and self._knows(optimizer):
            with s.pace.timed():
                self._look(optimizer, s.open_step)

    def _look(self, optimizer: Optimizer, step: OpenStep | None) -> None:
        s = self._state
        self._before = s.meter.before() if step and step.measured else None
        s.onlookers.before_step(optimizer, measured=self._before is not None)

    def after(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Hook after any optimizer's step."""
        s = self._state
        if s.muted or not self._knows(optimizer):
            return
        with s.pace.timed():
            second = s.open_step is None and bool(s.stepped)  # another optimizer, after the same backward pass
            step = s.stepped[-1][0] if second else (s.open_step or OpenStep(measured=False))
            s.step += not second
            self._close_step(step, optimizer)
            s.open_step, self._before = None, None
            s.onlookers.after_step(optimizer, measured=step.measured)
        if not second:
            s.pace.stepped(s.step, measured=step.measured)
            s.beside.stepped()

    def _close_step(self, step: OpenStep, optimizer: Optimizer) -> None:
        s, before, number = self._state, self._before, self._state.step
        rates = rates_of(optimizer, {id(p): name for name, p in s.meter.named}) if before else {}
        table: list[Tensor] = []
        if before:
            s.mailbox.post([s.meter.after(before)], table.extend)

        def build(_: list[Tensor]) -> None:
            parameters = s.meter.seen(table[0], before, rates) if before and table else ()
            held = [place for place, (name, _) in enumerate(s.meter.named) if name in rates]
            known, norm = self._grad_norms.get(id(optimizer), (-1, 0.0))
            carried = math.hypot(*(step.carried[i] for i in held)) if step.carried and held else None
            seen = StepSeen(
                step=number,
                loss=step.loss,
                tokens=step.tokens,
                micro=tuple(step.micro),
                carried=carried,
                previous_grad_norm=norm if known == number - 1 else None,
                parameters=parameters,
                first_non_finite=step.non_finite,
            )
            if parameters:
                norms = (p.grad_norm for p in parameters if p.optimized and p.grad_norm is not None)
                self._grad_norms[id(optimizer)] = (number, math.hypot(*norms))
            s.offer(seen)

        s.stepped.append((step, build))

    def flush(self) -> None:
        """Steps that are over become evidence, once their measurements have arrived."""
        for _, build in self._state.stepped:
            self._state.mailbox.post([], build)
        self._state.stepped = []

    def told(self, loss: float | Tensor | None, tokens: int | None) -> None:
        """The host's own word on the step just taken (or, before the optimizer stepped, the one being made)."""
        s = self._state
        step = s.stepped[-1][0] if s.stepped else s.open_step
        if step is None:
            return
        step.tokens = tokens if tokens is not None else step.tokens
        if loss is not None:
            step.summed = False
            step.losses.clear()
            value = torch.as_tensor(loss, dtype=torch.float32)
            s.mailbox.post([value], lambda v: step.losses.__setitem__(slice(None), [float(v[0])]))

    def _knows(self, optimizer: Optimizer) -> bool:
        s = self._state
        if any(optimizer is known for known in s.optimizers):
            return True
        ours = {id(p) for _, p in s.meter.named}
        if not any(id(p) in ours for group in optimizer.param_groups for p in group["params"]):
            return False
        s.optimizers.append(optimizer)
        return True

    def _name_non_finite(self) -> str | None:
        s = self._state
        if s.last_call is None or not s.last_call.repeatable:
            return None
        with s.silence():
            return first_non_finite(s.last_call) or "the loss function"
