"""Whether optimizer steps still write to anything: torch counts the writes to each tensor, so asking costs nothing.

An optimizer that writes through ``.data`` is not counted. So where the counters rest, values are compared as well.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer

from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.guard.evidence import StillSeen

LOOKED = 32  # parameters looked at, evenly spread: any that is written to shows that steps work
VALUES = 64  # elements of each that are compared
REFRESH = 16  # steps between two readings of which parameters the model has now
BEFORE, STEPS = 2, 8  # looks without a write until values are kept, and steps from then on until they are compared


class Standstill(Onlooker):
    """Counts the steps in a row that wrote to no parameter."""

    shows: ClassVar = ("StillSeen",)

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self._looked: list[Tensor] = []
        self._versions: list[tuple[int, int]] = []
        self._since = self._still = 0  # the last step that wrote, and looks since then
        self._kept_at = self._heard = self._backwards = 0
        self._kept: list[Tensor] = []
        self._over = self._frozen = False

    def after_step(self, optimizer: Optimizer, *, measured: bool) -> None:
        """Compare the counters with those after the last step."""
        if self._over or isinstance(optimizer, LBFGS):  # LBFGS stops by itself where it has converged
            return
        if self._still or not self._looked or self.recorder.step % REFRESH == 0:
            self._looked, self._frozen = _learning(self.recorder.model), False
            if not self._looked and self._since:  # it did learn
                held = (p for group in optimizer.param_groups for p in group["params"])
                self._looked, self._frozen = list(held)[:LOOKED], True
        versions = [(id(p), p._version) for p in self._looked]
        before, self._versions = self._versions, versions
        if not versions or versions != before:
            self._since, self._still, self._kept = self.recorder.step, 0, []
            return
        self._still += 1
        if self._still == BEFORE:
            self._kept, self._kept_at = [_few(p) for p in self._looked], self.recorder.step
            self._heard, self._backwards = 0, self.recorder.backwards
        elif self._still > BEFORE:
            self._heard += 1
            if self.recorder.step - self._kept_at >= STEPS:
                self._compare(optimizer)

    def _compare(self, optimizer: Optimizer) -> None:
        self._over = True
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        grads = [p.grad for p in self._looked if p.grad is not None]
        where = self._looked[0].device
        changed = [(_few(p) != old).any().to(where) for p, old in zip(self._looked, self._kept, strict=True)]
        norms = [_values(grad).float().norm().to(where) for grad in grads] or [torch.zeros((), device=where)]
        rate = max((float(group.get("lr") or 0.0) for group in optimizer.param_groups), default=0.0)
        facts: dict[str, Any] = {
            "step": self.recorder.step,
            "since": self._since,
            "steps": self.recorder.step - self._since,
            "heard": self._heard,
            "parameters": len(self._looked),
            "held": sum(id(p) in held for p in self._looked),
            "graded": len(grads),
            "backwards": self.recorder.backwards - self._backwards,
            "learning_rate": rate,
            "frozen": self._frozen,
        }

        def arrived(values: list[Tensor]) -> None:
            if not bool(values[0]):
                self.recorder.offer(StillSeen(**facts, grad_norm=float(values[1])))

        self.recorder.mailbox.post([torch.stack(changed).any(), torch.stack(norms).norm()], arrived)
        self._kept = []

    def close(self, *, broken: bool) -> None:
        """What belongs to the host is let go."""
        self._looked, self._kept, self._over = [], [], True


def _learning(model: torch.nn.Module) -> list[Tensor]:
    """At most LOOKED of the parameters that require a gradient."""
    every: list[Tensor] = [p for p in model.parameters() if p.requires_grad and p.numel() and not p.is_inference()]
    return every[:: max(1, -(-len(every) // LOOKED))]


def _few(parameter: Tensor) -> Tensor:
    """A copy of at most VALUES elements, evenly spaced (of this rank's part, where it is sharded)."""
    flat = _values(parameter).reshape(-1)
    return flat[:: max(1, -(-flat.numel() // VALUES))].clone()


def _values(tensor: Tensor) -> Tensor:
    local = (tensor.to_local() if hasattr(tensor, "to_local") else tensor).detach()
    return local._values() if local.is_sparse else local
