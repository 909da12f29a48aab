"""Is a step made of the gradient of the last of several batches alone?

Several passes before a step, of which each but the first meets no gradients, are often meant: two looks at one batch,
or from two places, a pass on remembered samples, gradients that are put together by hand. They are not where a loader
gives each pass the batch that comes next, the weights stay as they are, and what the optimizer gets is what the last
one left, at most scaled.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sightline.attach.feed import Feed
from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.guard.evidence import LastBatchSeen
from sightline.guard.probes.call import Call, differentiable

LOOKS = 3  # measured steps in a row of which it is so
TRIES = 8  # measured steps of which it is not so
FEW, PARAMETERS = 64, 16  # values of how many parameters, and of their gradients, are compared
SAME = 1e-4  # of a cosine: scaling and rounding leave less
Mark = tuple[int, int, int]


class LastBatch(Onlooker):
    """Notes where the batch of each pass comes from, and the gradients at the end of the last one."""

    shows: ClassVar = ("LastBatchSeen",)
    measured_only: ClassVar = True

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self._marks: list[Mark] = []
        self._began: list[tuple[Tensor, Tensor]] = []  # weights at the first pass
        self._left: list[tuple[nn.Parameter, Tensor]] = []  # gradients at the end of the last one
        self._moved: list[Tensor] = []
        self._seen: list[tuple[int, int]] = []  # number and passes of each step that is so
        self._tries = 0

    def forward(self, call: Call, output: Any, *, training: bool, measured: bool) -> None:
        """Which batch is it of?"""
        if not training or not measured or self._tries >= TRIES:
            return
        feed, outputs = Feed.last(), differentiable(output)
        learnt = any(isinstance(one, Tensor) and one.requires_grad for one in (*call.args, *call.kwargs.values()))
        if feed is None or not outputs or learnt or not call.repeatable:
            self._tries = TRIES
            return
        self._marks.append((id(feed.loader), feed.epoch, feed.place))
        if (number := len(self._marks)) == 1:
            self._began = [(p, _few(p)) for p in _chosen([p for p in call.model.parameters() if p.requires_grad])]
        else:
            self.heed(outputs[0], lambda _: self._begun(number))

    def _begun(self, number: int) -> None:
        """Inside a backward pass: at its end, all gradients of this pass are there."""
        torch.autograd.Variable._execution_engine.queue_callback(lambda: self._ended(number))

    def _ended(self, number: int) -> None:
        if number == len(self._marks):
            every = [p for p in self.recorder.model.parameters() if type(p.grad) is Tensor and not p.grad.is_sparse]
            self._left = [(p, _few(p.grad)) for p in _chosen(every) if p.grad is not None]
            self._moved = [_other(_few(p), few) for p, few in self._began]

    def before_step(self, optimizer: Optimizer, *, measured: bool) -> None:
        """Does it get what the last pass left?"""
        marks, left, step = self._marks, self._left, self.recorder.open_step
        moved, self._marks, self._left, self._began, self._moved = self._moved, [], [], [], []
        if not measured or not marks or step is None or self._tries >= TRIES:
            return
        odd = step.turns or step.reworked or step.unheard or step.asked
        whole = step.passes == step.forwards == len(marks) > 1 and all(_next(a, b) for a, b in pairwise(marks))
        if odd or not whole or not left or not moved or any(p.grad is None or p.grad.is_sparse for p, _ in left):
            self._tries, self._seen = self._tries + 1, []
            return
        device, fresh = left[0][1].device, [_few(p.grad) for p, _ in left if p.grad is not None]
        then, now = (torch.cat([one.to(device) for one in some]) for some in ([few for _, few in left], fresh))
        other = torch.stack([one.to(device) for one in moved]).any()
        if then.shape == now.shape:
            self._compare(nn.functional.cosine_similarity(then, now, dim=0).masked_fill(other, 0.0), len(marks))

    def _compare(self, cosine: Tensor, passes: int) -> None:
        number = self.recorder.step + 1

        def arrived(values: list[Tensor]) -> None:
            alike = not self._seen or self._seen[-1][1] == passes
            if not (alike and float(values[0]) >= 1 - SAME):
                self._tries, self._seen = self._tries + 1, []
                return
            self._seen.append((number, passes))
            if len(self._seen) == LOOKS:
                self._tries = TRIES
                self.recorder.offer(LastBatchSeen(number, passes, tuple(n for n, _ in self._seen)))

        self.recorder.mailbox.post([cosine], arrived)

    def close(self, *, broken: bool) -> None:
        """What belongs to the host is let go."""
        self._marks, self._left, self._began, self._moved, self._tries = [], [], [], [], TRIES


def _next(one: Mark, other: Mark) -> bool:
    """Whether a loader gave these one after the other."""
    (loader, epoch, place), (same, then, there) = one, other
    return loader == same and ((then, there) == (epoch, place + 1) or (then, there) == (epoch + 1, 0))


def _chosen(parameters: list[nn.Parameter]) -> list[nn.Parameter]:
    real = [p for p in parameters if p.is_floating_point()]
    return real[:: max(1, len(real) // PARAMETERS)][:PARAMETERS]


def _other(now: Tensor, then: Tensor) -> Tensor:
    """Whether values changed; a parameter that is elsewhere by now has others for all we know."""
    same = now.shape == then.shape and now.device == then.device
    return (now != then).any() if same else torch.ones((), dtype=torch.bool)


def _few(tensor: Tensor) -> Tensor:
    flat = (tensor.to_local() if hasattr(tensor, "to_local") else tensor).detach().reshape(-1)
    return flat[:: max(1, flat.numel() // FEW)][:FEW].float().clone()
