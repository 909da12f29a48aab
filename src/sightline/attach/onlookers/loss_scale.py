"""The dynamic loss scale of `torch.amp.GradScaler`, and what is left of the gradients when the optimizer gets them.

No hook leads to a scaler, but it calls the optimizer, so that it stands on the stack when the optimizer steps. Where no
step is ever taken, the scaler of the process that has fallen lowest is looked for.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer

from sightline.attach.alive import living
from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.guard.evidence import ScaledStep, ScalerSeen
from sightline.guard.probes.call import Call

TRIES = 8  # optimizer steps without a scaler on the stack: there is none
DEEP = 24  # frames looked through: wrappers of hosts stand between
SEARCHED = (16, 64, 256)  # training forwards without one optimizer step, after which a scaler is looked for
EVERY = 8  # training forwards between two readings of the scale while steps are skipped
KEPT = 64  # steps and scales kept
LEVEL = 1 - 1e-5  # of the largest value: as large, in float32
LARGEST = 2**20  # elements of the parameter whose gradient is compared before and after: cheap, and one is enough


class LossScale(Onlooker):
    """Reads the scale, and the gradients under it, on measured steps."""

    shows: ClassVar = ("ScalerSeen",)

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self._scaler: GradScaler | None = None
        self._tries = TRIES
        self._taken = self._stepped = 0  # steps heard, and the training forwards up to the last step
        self._scales: list[float] = []
        self._steps: list[ScaledStep] = []
        self._watched: Tensor | None = None
        self._after_backward: Tensor | None = None
        self._handle: Any = None
        self._measured = False

    def forward(self, call: Call, output: Any, *, training: bool, measured: bool) -> None:
        """While no step is taken, look for a scaler, and read its scale."""
        if not training:
            return
        self._measured = measured
        if self._scaler is None and not self._taken and self.recorder.forwards in SEARCHED:
            working = [one for one in living(GradScaler) if one.is_enabled()]
            self._scaler = min(working, key=lambda one: one.get_scale(), default=None)  # the one that fell
        idle = self.recorder.forwards - self._stepped
        if self._scaler is not None and idle % EVERY == 0:
            self._read([], lambda values: self._offer(float(values[0])))

    def before_step(self, optimizer: Optimizer, *, measured: bool) -> None:
        """A step that was not skipped: measure the gradients that it uses."""
        self._taken, self._stepped = self._taken + 1, self.recorder.forwards
        if self._scaler is None and self._tries:
            self._tries -= 1
            self._scaler = _on_the_stack() or self._of_the_loss()
            if self._scaler is not None:
                self._listen(optimizer)
        if self._scaler is None or not measured:
            return
        grads = [p.grad.detach() for g in optimizer.param_groups for p in g["params"] if _dense(p.grad)]
        if not grads:
            return
        scaled = isinstance(getattr(optimizer, "grad_scale", None), Tensor)  # a fused optimizer unscales by itself
        own, had = self._watched, self._after_backward
        largest = _norm(grads, float("inf"))
        sizes = [_norm(grads, 2), largest, _at(grads, largest)]
        if own is not None and own.grad is not None and had is not None:
            sizes += [own.grad.detach().float().norm(), had]
        step = self.recorder.step + 1

        def arrived(values: list[Tensor]) -> None:
            scale, norm, largest, level, *kept = (float(value) for value in values)
            unscale = scale if scaled and scale else 1.0
            share = kept[0] / unscale * scale / kept[1] if len(kept) == 2 and kept[1] else None
            seen = ScaledStep(step, scale, norm / unscale, largest / unscale, share, int(level))
            self._steps = [*self._steps[-KEPT + 1 :], seen]
            self._offer(scale)

        self._read(sizes, arrived)

    def _of_the_loss(self) -> GradScaler | None:
        """The one that the loss went through, where the optimizer is called without it. Known under `sightline run`."""
        told = getattr(getattr(self.recorder, "open_step", None), "scaler", None)
        found = told() if told is not None else None
        return found if isinstance(found, GradScaler) and found.is_enabled() else None

    def again(self) -> None:
        """Another stage may have a scaler of its own, or the first one."""
        if self._handle is not None:
            self._handle.remove()
        self._scaler = self._watched = self._after_backward = self._handle = None
        self._tries, self._scales, self._steps = TRIES, [], []

    def woke(self, steps: int) -> None:
        """Steps were taken."""
        self._stepped = self.recorder.forwards

    def close(self, *, broken: bool) -> None:
        """Let go of the scaler and the parameter."""
        if self._scaler is not None and self.recorder.forwards:
            self._read([], lambda values: self._offer(float(values[0])))
            self.recorder.mailbox.open(wait=True)
        if self._handle is not None:
            self._handle.remove()
        self._scaler = self._watched = self._after_backward = None

    def _listen(self, optimizer: Optimizer) -> None:
        """Follow one parameter's gradient from the end of its backward pass to the step."""
        held = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad and p.is_leaf]
        fitting = [p for p in held if p.numel() <= LARGEST and not hasattr(p, "to_local")]
        if not fitting:
            return
        self._watched = max(fitting, key=lambda p: p.numel())

        def came(parameter: Tensor) -> None:
            if self._measured and not self.recorder.muted and _dense(parameter.grad):
                self._after_backward = parameter.grad.detach().float().norm()  # type: ignore[union-attr]

        self._handle = self._watched.register_post_accumulate_grad_hook(came)

    def _read(self, more: Sequence[Tensor], arrived: Any) -> None:
        """Post the scale and `more`. A tensor of one, scaled, tells the scale without waiting for the device."""
        assert self._scaler is not None
        device = next(self.recorder.model.parameters()).device
        with torch.no_grad():
            self.recorder.mailbox.post([self._scaler.scale(torch.ones((), device=device)), *more], arrived)

    def _offer(self, scale: float) -> None:
        self._scales = [*self._scales[-KEPT + 1 :], scale]
        r, taken = self.recorder, max(self._taken, self.recorder.step)
        r.offer(ScalerSeen(r.step, tuple(self._scales), tuple(self._steps), r.forwards, taken))


def _on_the_stack() -> GradScaler | None:
    """The scaler that called the optimizer, if one did."""
    frame = sys._getframe(1)
    for _ in range(DEEP):
        if frame.f_globals.get("__name__") == GradScaler.__module__:
            found = frame.f_locals.get("self")
            return found if isinstance(found, GradScaler) and found.is_enabled() else None
        if frame.f_back is None:
            return None
        frame = frame.f_back
    return None


def _dense(grad: Tensor | None) -> bool:
    return grad is not None and not grad.is_sparse and not hasattr(grad, "to_local")


def _norm(grads: list[Tensor], order: float) -> Tensor:
    """The norm of all gradients together, 0-dim float32."""
    with torch.no_grad():
        each = torch._foreach_norm(grads, order, dtype=torch.float32)
        return torch.linalg.vector_norm(torch.stack([n.to(each[0].device) for n in each]), order)


def _at(grads: list[Tensor], largest: Tensor) -> Tensor:
    """How many values of all gradients are as large as the largest, but for rounding. 0-dim int64."""
    with torch.no_grad():
        return torch.stack([(g.abs() >= LEVEL * largest.to(g.device)).sum().to(largest.device) for g in grads]).sum()
