"""Training forwards: where a step begins, and what the model was given."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sightline.attach.open_step import OpenStep
from sightline.attach.phases.backward import Backward
from sightline.attach.phases.evaluation import Evaluation
from sightline.attach.phases.state import State
from sightline.attach.phases.stepping import Stepping
from sightline.guard.probes.call import Call

FIRST_PROGRESS = 8  # forwards; then 16, 32, ...


class Forward:
    """Hears the model's forward passes, and tells training from evaluation."""

    def __init__(self, state: State, backward: Backward, stepping: Stepping, evaluation: Evaluation) -> None:
        self._state, self._backward, self._stepping, self._evaluation = state, backward, stepping, evaluation

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Hook before the model's forward pass."""
        s = self._state
        if s.muted:
            return
        with s.pace.timed():
            s.signals.clear()
            if torch.is_grad_enabled() and not s.declared and s.open_step is None:
                self.begin()
            s.mailbox.open()

    def after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Hook after the model's forward pass; also after one that raised, with no output."""
        s = self._state
        if s.muted:
            return
        with s.pace.timed():
            call = Call(s.model, args, kwargs)
            if torch.is_grad_enabled() and not s.declared:
                self.trained(call, output)
            else:
                self._evaluation.judged(call, output)
            s.mailbox.open()

    def begin(self) -> None:
        """The first training forward of a step."""
        s = self._state
        s.beside.begins()
        self._stepping.flush()
        self._evaluation.end()
        s.open_step = OpenStep(s.pace.measures(s.step))
        s.evaluated = False
        if s.open_step.measured:
            s.show_setup()

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
        if step.measured:
            s.show_batch(call, "train")
            if shown := s.signals.evidence(s.step):
                tensors, made = shown
                s.mailbox.post(tensors, lambda values: s.offer(made(values)))
        with s.silence():
            s.probing.on_training(call, s.step, s.offer)
        step.count_items(call, s.mailbox)
        self._backward.listen(step, call, output)
        s.beside.trained(call, output)
        s.onlookers.forward(call, output, training=True, measured=step.measured)
