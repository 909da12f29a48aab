"""Were a model's weights set back since it was judged, as between the folds of a cross-validation?

Told at the first step of an optimizer, where every matrix that learns has other numbers than it ever was judged with,
or those that it began with. An average of weights that is put in to judge by, and taken out again, has no optimizer.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sightline.attach.mailbox import Mailbox
from sightline.attach.origins import matrices

MATRICES, FEW = 32, 8  # matrices that stand for the others, and numbers of each
ROUNDS = 64  # evaluations whose weights are kept


class SetBack:
    """Keeps a few weights of evaluations. `act`: what to do, once the numbers are here, with the step of the first
    batch behind the change."""

    def __init__(self, model: nn.Module, mailbox: Mailbox, act: Callable[[int], None]) -> None:
        self._model, self._mailbox, self._act = model, mailbox, act
        self._names: list[str] = []
        self._first: Tensor | None = None
        self._judged: list[Tensor] = []
        self._at: int | None = None  # the step of the evaluation since which nothing was taught
        self._now: tuple[int, Tensor] | None = None
        self._optimizers: weakref.WeakSet[Optimizer] = weakref.WeakSet()

    def judges(self, step: int) -> None:
        """An evaluation begins."""
        self._at = step
        if (now := self._sample()) is not None:
            self._mailbox.post([now], lambda values: self._judged.append(values[0]))

    def trains(self, step: int) -> None:
        """A training batch, before its step."""
        if self._first is None and not self._names:
            every = [name for name, p in matrices(self._model) if p.requires_grad]
            self._names = every[:: -(-len(every) // MATRICES) or 1]
            if (now := self._sample()) is not None:
                self._mailbox.post([now], self._begins)
        elif self._at == step and (now := self._sample()) is not None:
            self._now = step, now
        self._at = None

    def stepped(self, optimizer: Optimizer) -> None:
        """An optimizer's step is over."""
        if self._now is not None and optimizer not in self._optimizers:
            step, now = self._now
            self._mailbox.post([now], lambda values: self._compare(step, values[0]))
        self._now = None
        self._optimizers.add(optimizer)

    def _begins(self, values: list[Tensor]) -> None:
        self._first = values[0]

    def _compare(self, step: int, now: Tensor) -> None:
        judged = self._judged = self._judged[-ROUNDS:]
        if self._first is None or not judged:
            return
        moved = (now != self._first).any(dim=1)  # what never learnt is the same wherever it is set back to
        goes_on = any(bool(((now == one).all(dim=1) & moved).any()) for one in judged)
        if not goes_on and all(not torch.equal(now, one) for one in judged):
            self._judged = []
            self._act(step)

    def _sample(self) -> Tensor | None:
        """(matrices, numbers); None where they cannot be told."""
        named = dict(self._model.named_parameters())
        every = [named[name] for name in self._names if name in named]
        plain = all(type(p) is nn.Parameter and not p.is_meta and p.numel() >= FEW for p in every)
        if not every or len(every) < len(self._names) or not plain or len({p.device for p in every}) != 1:
            return None
        flat = (p.detach().reshape(-1) for p in every)
        return torch.stack([one[:: len(one) // FEW][:FEW].float() for one in flat])
