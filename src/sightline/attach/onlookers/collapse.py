"""Vectors that a loss compares with each other: are those of different samples as far apart as when the run began?"""

from __future__ import annotations

from itertools import combinations
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.attach.onlookers.outputs import few_rows, spread, spread_of_inputs
from sightline.guard.evidence import CollapseSeen, Vectors
from sightline.guard.probes.call import Call, differentiable

FIRST = 3  # steps that tell how a run began
LAST = 3  # readings shown of its end
WIDTH = 8, 8192  # numbers of a vector: fewer are scores, more are costly
SETS = 6  # of vectors in one step
EVEN = 0.1  # relative spread of gradients: below, the loss asks the same of all samples, as a critic's


class Collapse(Onlooker):
    """Keeps a few rows of the vectors and of their gradients until the optimizer steps, on sampled steps."""

    shows: ClassVar = ("CollapseSeen",)

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self._sets: list[list[Tensor | None]] = []  # of this step: (values, None where they are no vectors; gradient)
        self._inputs: Tensor | None = None
        self._began: list[Vectors] = []
        self._recent: list[tuple[int, int, float, Vectors]] = []

    def forward(self, call: Call, output: Any, *, training: bool, measured: bool) -> None:
        """Keep what it gave until its gradient has come."""
        if not training or not (measured or self.recorder.step < FIRST):
            return
        every = [given for given in differentiable(output) if given.is_floating_point()]
        if not every or len(self._sets) + len(every) > SETS:
            return
        self._inputs = spread_of_inputs(call, every[0]) if every[0].dim() else None
        for given in every:
            self._listen(given)

    def _listen(self, given: Tensor) -> None:
        fits = given.dim() == 2 and len(given) > 1 and WIDTH[0] <= given.shape[1] <= WIDTH[1]
        kept = [few_rows(given.detach()).float() if fits else None]
        self._sets.append(kept)

        def came(grad: Tensor) -> None:
            if not self.recorder.muted and len(kept) < 2:
                kept.append(few_rows(grad.detach()).float() if fits else None)

        given.register_hook(came)

    def before_step(self, optimizer: Optimizer, *, measured: bool) -> None:
        """All gradients of the step are there."""
        reached, self._sets = [kept for kept in self._sets if len(kept) == 2], []
        sets = [(values, grad) for values, grad in reached if values is not None and grad is not None]
        alike = len({values.shape for values, _ in sets}) == 1 and len(sets) == len(reached)
        if len(sets) < 2 or not alike or self._inputs is None:
            return
        step, rows = self.recorder.step, len(sets[0][0])
        spreads = torch.stack([spread(nn.functional.normalize(values, dim=1)) for values, _ in sets])
        sizes = torch.stack([(values - values.mean(0)).square().mean().sqrt() for values, _ in sets])
        pulls = torch.stack([_pull(values, grad) for values, grad in sets])
        turned = torch.stack([(v * g).sum(1).square().mean().sqrt() for v, g in sets]) / pulls.clamp(min=1e-30)
        opposed = torch.stack([_sum(one[1], other[1]) for one, other in combinations(sets, 2)])

        def arrived(came: list[Tensor]) -> None:
            apart, far, across, pulled = (tuple(one.tolist()) for one in came[:4])
            seen = Vectors(apart, far, across, pulled, float(came[4]))
            if step < FIRST:
                self._began.append(seen)
            else:
                self._recent = [*self._recent[1 - LAST :], (step, rows, float(came[5]), seen)]

        self.recorder.mailbox.post([spreads, sizes, turned, pulls, opposed.min(), self._inputs], arrived)

    def close(self, *, broken: bool) -> None:
        """The end, told by readings after the first quarter, the last of them in the second half."""
        if len(self._recent) < LAST or not self._began:
            return
        steps, rows, inputs, ended = zip(*self._recent, strict=True)
        if 4 * steps[0] < self.recorder.step or 2 * steps[-1] < self.recorder.step:
            return
        self.recorder.offer(CollapseSeen(steps[-1], rows[-1], tuple(self._began), ended, min(inputs)))


def _pull(values: Tensor, grad: Tensor) -> Tensor:
    """0-dim: root mean square of the lengths of vector and gradient, multiplied."""
    return (values.square().sum(1) * grad.square().sum(1)).mean().sqrt()


def _sum(one: Tensor, other: Tensor) -> Tensor:
    """0-dim: what is left of two gradients in their sum; 1 where they hardly differ from sample to sample."""
    left = ((one + other).square().mean() / one.square().mean().clamp(min=1e-30)).sqrt()
    return torch.where(spread(one) < EVEN, torch.ones_like(left), left)
