"""Training forwards: where a step begins, of which kind it is, and what the model was given."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from sightline.attach.open_step import OpenStep
from sightline.attach.pace import Kind
from sightline.attach.phases.backward import Backward
from sightline.attach.phases.evaluation import Evaluation
from sightline.attach.phases.state import State
from sightline.attach.phases.stepping import PATIENCE, Stepping
from sightline.guard.probes.call import Call

FIRST_PROGRESS = 8  # forwards; then 16, 32, ...
ENDLESS = 512  # forwards of one step: more than any accumulation in use, so no optimizer of torch is at work


class Forward:
    """Hears the model's forward passes, and tells training from evaluation."""

    def __init__(self, state: State, backward: Backward, stepping: Stepping, evaluation: Evaluation) -> None:
        self._state, self._backward, self._stepping, self._evaluation = state, backward, stepping, evaluation
        self._slept = (0, 0)  # steps and forwards when sleep began

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> None:
        """Hook before the model's forward pass. Off while the guard sleeps, until it is due to wake.

        Without `kwargs`: it was taken off by another hook of this very call, and torch still goes through them.
        """
        s = self._state
        if s.muted or kwargs is None:
            return
        if s.arriving is not None:
            s.arriving()
        training = torch.is_grad_enabled() and not s.declared
        with s.pace:
            if not training and s.audience is not None:
                s.audience.enters(s)
            if training and s.open_step is None:
                self.begin()
            if s.asleep and training:
                return
            if not training or (s.open_step is not None and s.open_step.measured):
                s.signals.clear(measuring=training)
            s.mailbox.open()

    def after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Hook after the model's forward pass; also after one that raised, with no output."""
        s = self._state
        if s.asleep and torch.is_grad_enabled() and not s.declared:
            self.counted()
            return
        if s.muted:
            return
        with s.pace:
            call = Call(s.model, args, kwargs)
            if torch.is_grad_enabled() and not s.declared:
                self.trained(call, output)
            else:
                self._evaluation.judged(call, output)
            s.mailbox.open()

    def joined(self, optimizers: Sequence[Optimizer]) -> bool:
        """Before a call of the model: others are to step it, too. Whether that is new, and what comes is measured."""
        s = self._state
        new = [one for one in optimizers if not any(one is known for known in s.optimizers)]
        if not new or s.muted or s.open_step is not None:
            return False
        s.optimizers += new
        s.pace.again(s.step)
        if s.asleep:
            s.wakes = s.step
            s.wake()
        return True

    def counted(self) -> None:
        """A training forward while asleep."""
        s = self._state
        if s.muted:
            return
        s.forwards += 1
        if s.evaluated or s.asked:
            self._evaluation.end()
            s.evaluated = False
        if s.forwards >= s.stalled:
            s.wake()

    def begin(self) -> None:
        """The first training forward of a step."""
        s = self._state
        self._evaluation.end()
        s.evaluated = False
        stalled = s.asleep and s.step < s.wakes
        if s.asleep and not self._wakes():
            return
        self._judge()
        kind = Kind.HEARD if stalled else s.pace.kind(s.step)
        if kind is Kind.ASLEEP:
            self._fall_asleep(s.pace.sleeps(s.step))
            return
        s.beside.begins()
        s.open_step = OpenStep(kind)
        if s.open_step.measured:
            s.show_setup(self._settle)
        else:
            s.signals.rest()

    def _judge(self) -> None:
        """What the last step has shown becomes evidence. The checks' time is that step's."""
        s = self._state
        start, measured = perf_counter(), any(step.measured for step, _ in s.stepped)
        self._stepping.flush(all_=False)
        s.mailbox.open()
        if measured:
            s.pace.late += perf_counter() - start

    def _settle(self) -> None:
        """All steps so far become evidence now."""
        self._stepping.flush()
        self._state.mailbox.open(wait=True)

    def _wakes(self) -> bool:
        s = self._state
        if not s.due:
            return False
        steps, forwards = self._slept
        s.pace.settle(s.step, Kind.ASLEEP, steps=max(1, s.step - steps), forwards=s.forwards - forwards)
        if s.lone is not None:
            self._stepping.slept_through(s.lone)
        s.asleep, s.due, s.lone = False, False, None
        s.beside.woke()
        s.onlookers.woke(s.step - steps)
        return True

    def rouse(self) -> None:
        """The run is over, perhaps while the guard sleeps."""
        s = self._state
        if s.asleep:
            s.asleep, s.lone = False, None
            s.onlookers.woke(s.step - self._slept[0])

    def _fall_asleep(self, steps: int) -> None:
        s = self._state
        s.asleep, s.due, s.wakes = True, False, s.step + steps
        self._stepping.sleepless = s.onlookers.sleeps()
        s.lone = s.optimizers[0] if len(s.optimizers) == 1 and not self._stepping.sleepless else None
        s.stalled = s.forwards + s.patience
        s.signals.rest(counting=True)
        if s.ears is not None:
            s.ears.rest()
        self._slept = (s.step, s.forwards)

    def trained(self, call: Call, output: Any) -> None:
        """A training forward of the model gave `output`."""
        s = self._state
        s.forwards += 1
        s.last_call = call
        step = s.open_step
        if s.forwards >= FIRST_PROGRESS and s.forwards & (s.forwards - 1) == 0:
            s.offer(s.progress(closed=False))
        if step is None:
            return
        step.forwards += 1
        step.sources.append(call.made)
        if step.measured:
            s.show_batch(call, "train")
            if shown := s.signals.evidence(s.step):
                tensors, made = shown
                s.mailbox.post(tensors, lambda values: s.offer(made(values)))
        if step.measured or s.probing.due(s.step):
            with s.silence():
                s.probing.on_training(call, s.step, s.offer)
        step.count_items(call, s.mailbox)
        self._backward.listen(step, call, output)
        s.beside.trained(call, output)
        s.onlookers.forward(call, output, training=True, measured=step.measured)
        if step.forwards >= ENDLESS:
            s.open_step = None
            s.patience = max(PATIENCE, s.forwards)
            self._fall_asleep(1)
