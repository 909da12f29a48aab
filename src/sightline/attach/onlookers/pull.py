"""Does the loss know which sample is which? The gradient of one output a sample, over these outputs."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.attach.onlookers.outputs import given_out
from sightline.guard.evidence import PullSeen
from sightline.guard.probes.call import Call

LOOKS = 48  # batches looked at, of measured steps: a first gradient that is no line ends it
KEPT = 8  # of them shown together
ROWS = 8  # samples: a line through fewer outputs may be chance
MANY = 4096  # samples: one output each, for a batch; more are pixels or steps of time
FROM = 8  # steps up to which every one is looked at
LINE = 1e-4  # of the largest gradient: float32 leaves 1e-5 beside the line, single targets leave all of it
WIDE = (
    0.1  # spread of outputs over the way to where the line crosses 0: nearer, a sigmoid bends by 5e-3 of its gradient
)


class Pull(Onlooker):
    """Fits a line to gradients of outputs, for the first batches; gives up at the first that is none."""

    shows: ClassVar = ("PullSeen",)

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self._seen: list[list[float]] = []
        self._rows = MANY
        self._looks = 0

    def again(self) -> None:
        """Another stage may have another loss."""
        self._seen, self._rows, self._looks = [], MANY, 0

    def forward(self, call: Call, output: Any, *, training: bool, measured: bool) -> None:
        """Listen to the gradient of outputs (B,) or (B, 1)."""
        if not training or not (measured or self.recorder.step < FROM) or self._looks >= LOOKS:
            return
        given = given_out(output)
        if given is None or not given.requires_grad or given.dtype != torch.float32:
            return
        if not ROWS <= len(given) == given.numel() <= MANY:
            self._looks = LOOKS
            return
        self._looks += 1
        values = given.detach()

        def came(grad: Tensor) -> None:
            self.recorder.mailbox.post([line(values.flatten(), grad.flatten())], lambda v: arrived(v[0].tolist()))

        def arrived(found: list[float]) -> None:
            slope, centre, mean, spread, beside = found
            if not (slope > 0 and beside <= LINE):
                self._looks = LOOKS
                return
            if spread < WIDE * abs(centre - mean):
                return
            self._rows = min(self._rows, len(values))
            self._seen = [*self._seen[1 - KEPT :], [centre, mean, spread]]
            centres, means, spreads = zip(*self._seen, strict=True)
            self.recorder.offer(PullSeen(self.recorder.step, self._rows, centres, means, spreads))

        self.heed(given, came)


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
