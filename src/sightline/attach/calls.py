"""The calls of networks that a model has, where nobody calls the model itself: which of them the loss was made of."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sightline.attach.onlookers.row_inputs import rows_in
from sightline.attach.recorder import Recorder
from sightline.guard.probes.call import Call, differentiable


class Calls:
    """The outermost calls of networks since the last backward pass, in order. Evaluations are told as they come."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder, self.depth = recorder, 0
        self.made: list[tuple[Call, Any]] = []
        self.within = False  # a step of a host that says when it evaluates

    @property
    def training(self) -> bool:
        """Whether a call that is made now is a training forward."""
        return torch.is_grad_enabled() and not self.recorder.declared

    def entered(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Hook before a call."""
        if self.recorder.muted or (self.recorder.asleep and self.training):
            return
        self.depth += 1
        if self.depth == 1 and not self.made:
            step = self.recorder.open_step
            self.recorder.signals.clear(measuring=step is not None and step.measured)

    def left(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Hook after a call; also after one that raised, with no output."""
        if self.recorder.muted or not self.depth:
            return
        self.depth -= 1
        if self.depth or output is None:
            return
        call = Call(module, args, kwargs)
        if self.training:
            self.made.append((call, output))
        else:
            self.judged(call, output)

    def judged(self, call: Call, output: Any) -> None:
        """A call without gradients, or in what the host says is an evaluation."""
        self.recorder.judged(call, output)

    def trained(self) -> tuple[Call, list[Call]] | None:
        """Tell the recorder of what the loss was made of: its last call, given back, beside all others that carry a
        gradient."""
        opened = next((call for call, _ in self.made if not call.made and rows_in(call)), None)
        parted = [(call, output) for call, output in self.made if differentiable(output)]
        if (one := self.taken()) is None:
            return None
        self.recorder.parted, self.recorder.opened = parted, opened
        self.recorder.trained(*one)
        self.recorder.parted, self.recorder.opened = [], None
        return one[0], [call for call, _ in parted]

    def taken(self) -> tuple[Call, Any] | None:
        """The call whose output the loss was made of: the last that carries a gradient. The others are forgotten.

        A loss that learns, a margin's or a proxy's, is a part as well: its one number is no output.
        """
        made, self.made, self.depth = self.made, [], 0
        graded = [one for one in reversed(made) if differentiable(one[1])]
        return next((one for one in graded if any(t.dim() for t in differentiable(one[1]))), next(iter(graded), None))
