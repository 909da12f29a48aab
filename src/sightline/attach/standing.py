"""Gradients that nobody has touched: what a backward pass has put there itself was not left over by the step before.

A parameter that the loss uses outside the model's forward pass (a learnt temperature, the weights of several tasks) has
its gradient of a backward pass before that pass comes through an output of the model, where it is first heard.
"""

from __future__ import annotations

import weakref

from torch import Tensor, nn

from sightline.attach.meter import Meter


class Standing:
    """The gradients of one model as an optimizer's step left them. None is kept alive for that."""

    def __init__(self, meter: Meter) -> None:
        self._meter, self._step = meter, -1
        self._named: list[tuple[str, nn.Parameter]] = []
        self._marks: list[tuple[weakref.ref[Tensor], int] | None] = []

    def note(self, step: int) -> None:
        """An optimizer is done with its step, which `step` steps of the model's own were counted with."""
        self._named, self._step = self._meter.named, step
        grads = [p.grad for _, p in self._named]
        self._marks = [None if grad is None else (weakref.ref(grad), grad._version) for grad in grads]

    def touched(self, step: int, *, still: bool = False) -> frozenset[int] | None:
        """The places of gradients that are others than those noted; None if none were since `step`, or it was asked.

        `still`: what was noted stands, as the pass that begins leaves no gradients.
        """
        if step != self._step or self._named is not self._meter.named:
            return None
        if not still:
            self._step = -1
        now = zip(self._named, self._marks, strict=True)
        return frozenset(place for place, ((_, p), mark) in enumerate(now) if _other(p.grad, mark))


def _other(grad: Tensor | None, mark: tuple[weakref.ref[Tensor], int] | None) -> bool:
    """Another tensor, or other values in it. None at all is no other: nothing is left of what was."""
    return grad is not None and (mark is None or mark[0]() is not grad or mark[1] != grad._version)
