"""Exponential moving average of the weights that learn (Polyak & Juditsky 1992), with a warmed-up decay."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from sightline.train.parallel.sharded import local


class Ema:
    """Average of the parameters of `model` that learn. `values` maps parameter names to averages (fp32 as held)."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._live = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.values = {name: p.detach().clone() for name, p in self._live.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the weights after 0-based `step`; early steps use the decay (1+s)/(10+s)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        # This rank's parts: tensors that lie on ranks in unlike ways are never in one operation.
        if values := [local(value) for value in self.values.values()]:
            torch._foreach_lerp_(values, [local(p) for p in self._live.values()], 1 - decay)

    def take_up(self, fill: Callable[[Mapping[str, Tensor]], None]) -> None:
        """Take up saved averages, with which `fill` fills tensors by name."""
        fill(self.values)

    @torch.no_grad()
    def adopt(self) -> None:
        """Make the averages the model's weights."""
        for name, parameter in self._live.items():
            parameter.copy_(self.values[name])

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Use the averages as weights inside the block."""
        live = {name: p.detach().clone() for name, p in self._live.items()}
        self.adopt()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self._live.items():
                    parameter.copy_(live[name])
