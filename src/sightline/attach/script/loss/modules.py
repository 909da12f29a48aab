"""Losses that are modules: what one without parameters gives, a lone number that can be learned from, is the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sightline.attach.hook import Hook
from sightline.attach.open_step import Loss, OpenStep
from sightline.attach.recorder import Recorder


class LossModules:
    """Hears those of a script. `recorders`: of its models; `fault`: told of errors of our own."""

    def __init__(self, recorders: Callable[[], Sequence[Recorder]], fault: Callable[[str], None]) -> None:
        self._recorders, self._fault = recorders, fault
        self.handles: list[Any] = []
        self._made: tuple[int, int] = (-1, 0)

    def listen(self, modules: Sequence[nn.Module]) -> None:
        """To these from now on, and to no others."""
        for handle in self.handles:
            handle.remove()
        hook = Hook(self._came, lambda error: self._fault(f"loss: {error!r}"))
        self.handles = [module.register_forward_hook(hook) for module in modules]

    def _came(self, module: nn.Module, args: Any, output: Any) -> None:
        """Only where it is clear whose loss it is: one model, and one loss for each of its forward passes."""
        if not isinstance(output, Tensor) or output.dim() or not output.requires_grad:
            return
        live = self._recorders()
        if len(live) != 1 or live[0].open_step is None:  # asleep, or not of a training step
            return
        recorder = live[0]
        forwards, made = self._made
        self._made = (recorder.forwards, made + 1 if forwards == recorder.forwards else 1)
        if not recorder.muted and torch.is_grad_enabled():
            key, value = self._made[0], Loss.of(output)
            step = recorder.open_step
            output.register_hook(Hook(lambda _: self._backward(recorder, step, key, value)))

    def _backward(self, recorder: Recorder, step: OpenStep | None, key: int, value: Loss) -> None:
        if self._made == (key, 1) and step is not None and step is recorder.open_step:
            recorder.backward.loss_came(step, value)
