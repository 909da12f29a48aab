"""Does the loss know which sample is which? The gradient of one output a sample, over these outputs."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.attach.onlookers.outputs import given_out
from sightline.guard.evidence import PullSeen
from sightline.guard.probes.call import Call

LOOKS = 6  # batches looked at: the first ones, so a loss of another kind costs nothing afterwards
ROWS = 8  # samples: a line through fewer outputs may be chance
MANY = 4096  # samples: one output each, for a batch; more are pixels or steps of time
LINE = 1e-3  # of the largest gradient: float32 leaves 1e-6 beside the line, single targets leave all of it


class Pull(Onlooker):
    """Fits a line to gradients of outputs, for the first batches; gives up at the first that is none."""

    shows: ClassVar = ("PullSeen",)

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self._seen: list[list[float]] = []
        self._rows = MANY
        self._looks = 0

    def forward(self, call: Call, output: Any, *, training: bool, measured: bool) -> None:
        """Listen to the gradient of outputs (B,) or (B, 1)."""
        if not training or self._looks >= LOOKS:
            return
        given = given_out(output)
        if given is None or not given.requires_grad or given.dtype != torch.float32:
            return
        if not ROWS <= len(given) == given.numel() <= MANY:
            self._looks = LOOKS
            return
        self._looks += 1
        values, done = given.detach(), [False]

        def came(grad: Tensor) -> None:
            if not self.recorder.muted and not done[0]:
                done[0] = True
                self.recorder.mailbox.post([line(values.flatten(), grad.flatten())], lambda v: arrived(v[0].tolist()))

        def arrived(found: list[float]) -> None:
            slope, centre, mean, spread, beside = found
            if not (slope > 0 and beside <= LINE):
                self._looks = LOOKS
                return
            self._rows = min(self._rows, len(values))
            self._seen.append([centre, mean, spread])
            centres, means, spreads = zip(*self._seen, strict=True)
            self.recorder.offer(PullSeen(self.recorder.step, self._rows, centres, means, spreads))

        given.register_hook(came)


def line(outputs: Tensor, grad: Tensor) -> Tensor:
    """(5,): slope of the line through the gradients, where it crosses 0, mean and standard deviation of the outputs,
    and the largest distance of a gradient from the line over the largest gradient."""
    with torch.no_grad():
        x, y = outputs.double(), grad.double()
        mean, spread = x.mean(), x.std(correction=0)
        slope = ((x - mean) * y).mean() / spread.square().clamp(min=1e-30)
        fitted = y.mean() + slope * (x - mean)
        centre = mean - y.mean() / slope.abs().clamp(min=1e-30) * slope.sign()
        beside = (y - fitted).abs().max() / y.abs().max().clamp(min=1e-30)
        return torch.stack([slope, centre, mean, spread, beside])
