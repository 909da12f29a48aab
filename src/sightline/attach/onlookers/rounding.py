"""What becomes of updates to 16-bit parameters: what the optimizer means to add, beside what the weight does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.guard.evidence import RoundingSeen

LOW = (torch.bfloat16, torch.float16)
PARAMETERS = 8  # the largest ones: they hold most of a model's elements
SAMPLE = 256  # elements of each
SMALL = 0.2  # of the spacing: round-to-nearest loses below a half, and a quarter just above a power of two
TRIES = 4  # measured steps until an optimizer of 16-bit parameters has shown itself
FIRST, EVERY = 24, 4  # looks that a run gets whatever the budget, and the steps between them: some 20 ms in all
GAP = 8  # unmeasured steps for which the last update is taken to have gone on (Adam's mean is over ten)


@dataclass(slots=True, eq=False)
class Sampled:
    """Elements of one parameter: their places, values at the start, sum of updates, and whether all were small."""

    parameter: Tensor
    group: dict[str, Any]
    places: Tensor
    start: Tensor
    total: Tensor
    small: Tensor
    last: int


class Rounding(Onlooker):
    """Follows a sample of the 16-bit elements that an optimizer holds, over the measured steps."""

    shows: ClassVar = ("RoundingSeen",)

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self._sampled: list[Sampled] = []
        self._tries = TRIES
        self._owner: Optimizer | None = None
        self._counts = torch.zeros(2, dtype=torch.float64)
        self._steps = 0
        self._due = False
        self._before: list[tuple[Tensor, Tensor | None]] = []

    def before_step(self, optimizer: Optimizer, *, measured: bool) -> None:
        """Keep the values, and the gradients that this step uses."""
        if self._owner is None and measured and self._tries:
            self._tries -= 1
            self._sampled = self._choose(optimizer)
            self._owner = optimizer if self._sampled else None
        self._due = measured or (self._steps < FIRST and self.recorder.step % EVERY == 0)
        if not self._due or optimizer is not self._owner:
            return
        self._before = [
            (_at(s.parameter, s.places), None if s.parameter.grad is None else _at(s.parameter.grad, s.places))
            for s in self._sampled
        ]

    def after_step(self, optimizer: Optimizer, *, measured: bool) -> None:
        """Compare what the optimizer meant to add with what happened."""
        if not self._due or optimizer is not self._owner or not self._before:
            return
        step, counts, table = self.recorder.step, [], []
        for sampled, (old, grad) in zip(self._sampled, self._before, strict=True):
            update = meant(optimizer, sampled, grad)
            if update is None:
                self._sampled, self._owner, self._tries = (
                    [],
                    None,
                    0,
                )  # an optimizer of a kind that does not show what it adds
                return
            new, spacing = _at(sampled.parameter, sampled.places), _spacing(old)
            small, away = update.abs() < SMALL * spacing, new != sampled.start
            counts.append(torch.stack([(update != 0).sum(), (small & (update != 0) & (new == old)).sum()]))
            sampled.total += update * min(step - sampled.last, GAP)
            sampled.small &= small
            sampled.last = step
            due = sampled.small & (sampled.total.abs() >= spacing)
            table.append(torch.stack([(due & ~away).sum(), (due & away).sum()]))
        self._before, self._steps = [], self._steps + 1
        self._post(step, counts, table)

    def close(self, *, broken: bool) -> None:
        """Let go of the parameters."""
        self._sampled, self._owner, self._before = [], None, []

    def _post(self, step: int, counts: list[Tensor], table: list[Tensor]) -> None:
        sampled, steps = self._sampled, self._steps
        dtype = str(sampled[0].parameter.dtype).removeprefix("torch.")
        rate = max(float(s.group["lr"] or 0.0) for s in sampled)

        def arrived(values: list[Tensor]) -> None:
            self._counts += values[0].double()
            updates, swallowed = (int(n) for n in self._counts.tolist())
            owed, paid = (int(n) for n in values[1].tolist())
            self.recorder.offer(RoundingSeen(step, dtype, steps, updates, swallowed, owed, paid, rate))

        device = counts[0].device
        both = [torch.stack([part.to(device) for part in parts]).sum(dim=0) for parts in (counts, table)]
        self.recorder.mailbox.post(both, arrived)

    def _choose(self, optimizer: Optimizer) -> list[Sampled]:
        held = [(p, g) for g in optimizer.param_groups for p in g["params"] if p.dtype in LOW and p.requires_grad]
        held = sorted((h for h in held if not hasattr(h[0], "to_local")), key=lambda h: -h[0].numel())[:PARAMETERS]
        found = []
        for p, group in held:
            places = torch.arange(0, p.numel(), max(1, p.numel() // SAMPLE), device=p.device)
            zero = torch.zeros(len(places), device=p.device)
            start, last = _at(p, places), self.recorder.step
            found.append(Sampled(p, group, places, start, zero, zero == 0, last))
        return found


def meant(optimizer: Optimizer, sampled: Sampled, grad: Tensor | None) -> Tensor | None:
    """(n,) float32: the update that the optimizer's state and group call for; None where they do not say.

    Known for whatever keeps Adam's two moments, and for torch's SGD. Weight decay is left out: it is rounded by itself.
    """
    state, group = optimizer.state.get(sampled.parameter, {}), sampled.group
    rate = group["lr"]
    if {"exp_avg", "exp_avg_sq", "step"} <= set(state) and "betas" in group:
        mean, square = (_at(state[key], sampled.places).float() for key in ("exp_avg", "exp_avg_sq"))
        one, two = group["betas"]
        root = (square / (1 - two ** state["step"])).sqrt() + group.get("eps", 1e-8)
        return -rate * (mean / (1 - one ** state["step"])) / root
    if isinstance(optimizer, SGD):
        if grad is None:
            return torch.zeros_like(sampled.total)
        kept = state.get("momentum_buffer")
        return -rate * (grad.float() if kept is None else _at(kept, sampled.places).float())
    return None


def _at(tensor: Tensor, places: Tensor) -> Tensor:
    return tensor.detach().reshape(-1).index_select(0, places)


def _spacing(values: Tensor) -> Tensor:
    """Distance from each value to the next of its format, float32."""
    format = torch.finfo(values.dtype)
    exponent = torch.frexp(values.float()).exponent
    return torch.ldexp(torch.full_like(exponent, format.eps, dtype=torch.float32), exponent - 1).clamp(
        min=format.smallest_normal * format.eps
    )
