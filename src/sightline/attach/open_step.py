"""An optimizer step in the making: what its forward and backward passes have shown so far."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sightline.attach.mailbox import Mailbox
from sightline.guard.evidence import LossSeen
from sightline.guard.probes.call import Call


@dataclass(slots=True)
class OpenStep:
    """A step in the making. `carried`: (P,) least norms of the gradients that its backward passes met.

    `summed`: the micro-batches' losses are parts of the step's mean, and not means of their own. `told`: the losses as
    the host itself told them, which count in place of those that the model returned.
    """

    measured: bool
    losses: list[float] = field(default_factory=list)
    micro: list[LossSeen] = field(default_factory=list)
    carried: list[float] | None = None
    tokens: int | None = None
    non_finite: str | None = None
    summed: bool = False
    told: list[float] = field(default_factory=list)

    def count_items(self, call: Call, mailbox: Mailbox) -> None:
        """A host that tells the model how many tokens a whole step supervises divides each loss by that number."""
        if isinstance(items := call.value("num_items_in_batch"), Tensor | int):
            self.summed = True
            mailbox.post([torch.as_tensor(items)], lambda v: setattr(self, "tokens", int(v[0].sum())))

    def meet(self, norms: list[float]) -> None:
        """A backward pass met these gradients. The least counts: a host may clear them in between."""
        known = self.carried
        self.carried = norms if known is None else [min(a, b) for a, b in zip(known, norms, strict=True)]

    @property
    def loss(self) -> float | None:
        """The step's mean loss, as far as it was seen."""
        if self.told:
            return sum(self.told) / len(self.told)
        if not self.losses:
            return None
        return sum(self.losses) / (1 if self.summed else len(self.losses))


def learns(tensor: Tensor | None) -> bool:
    """Whether a backward pass goes through it."""
    return tensor is not None and tensor.requires_grad
