"""Gradients of parameters that no output of the model tells of: is what the last step left still in what this one uses?

A loss with parameters of its own (proxies, centres, a temperature) may be in the model's optimizer, and a parameter of
the model may be used by the loss alone. Both have their gradients before the pass comes through an output of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.guard.evidence import OutsideSeen
from sightline.guard.probes.call import Call

MOST = 1 << 20  # elements that are copied


class Outside(Onlooker):
    """Of two measured steps in a row: the gradients that the first leaves, and those that the second begins with."""

    shows: ClassVar = ("OutsideSeen",)
    measured_only = True

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self._own: dict[int, str] = {}
        self._kept: list[tuple[str, nn.Parameter, Tensor]] = []
        self._step = -1  # after which they were kept
        self._handles: list[Any] = []
        self._found: dict[str, Tensor] = {}

    def again(self) -> None:
        """Other parameters may be the model's now."""
        self._own.clear()

    def after_step(self, optimizer: Optimizer, *, measured: bool) -> None:
        """Keep what it leaves in parameters outside."""
        self._kept, self._step = [], self.recorder.step
        if not measured:
            return
        self._own = self._own or {id(p): name for name, p in self.recorder.model.named_parameters()}
        held = [p for group in optimizer.param_groups for p in group["params"]]
        outside = [(f"one of shape {(*p.shape,)}", p) for p in held if id(p) not in self._own]
        last = self.recorder.stepped[-1][0] if self.recorder.stepped else None
        if last is not None and last.early:  # of the model, and used by the loss
            places = enumerate(self.recorder.model.named_parameters())
            outside += [named for place, named in places if place in last.early]
        plain = [(name, p) for name, p in outside if p.grad is not None and type(p.grad) is Tensor]
        plain = [(name, p) for name, p in plain if p.grad.layout is torch.strided]
        if sum(p.numel() for _, p in plain) <= MOST:
            self._kept = [(name, p, p.grad.detach().clone()) for name, p in plain]

    def forward(self, call: Call, output: Any, *, training: bool, measured: bool) -> None:
        """The next step begins: listen to these parameters' gradients, and to what they are added to."""
        if training and measured and self._step == self.recorder.step and not self._handles:
            for name, parameter, left in self._kept:
                self._listen(name, parameter, left)

    def _listen(self, name: str, parameter: nn.Parameter, left: Tensor) -> None:
        came: list[Tensor] = []
        total = left.clone()

        def added(p: Tensor) -> None:
            if came and p.grad is not None and not self.recorder.muted:
                with torch.no_grad():
                    total.add_(came.pop())
                    self._found[name] = torch.stack([left.norm(), p.grad.norm(), (p.grad - total).norm()])

        self._handles.append(parameter.register_hook(lambda grad: came.append(grad.detach())))
        self._handles.append(parameter.register_post_accumulate_grad_hook(added))

    def before_step(self, optimizer: Optimizer, *, measured: bool) -> None:
        """Listen no more, and show what the gradients were made of that the step uses."""
        for name, far in self._found.items():
            self.recorder.mailbox.post([far], partial(self._show, self.recorder.step, name))
        for handle in self._handles:
            handle.remove()
        self._handles, self._found = [], {}

    def _show(self, step: int, name: str, far: Sequence[Tensor]) -> None:
        self.recorder.offer(OutsideSeen(step, name, *far[0].tolist()))
