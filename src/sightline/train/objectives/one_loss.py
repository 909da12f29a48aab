"""An objective of one loss: a sum over micro-batches, each with its own forward and backward pass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from sightline.data.batch import Batch
from sightline.models.vlm import VLM
from sightline.train.objectives.balance import Balance
from sightline.train.objectives.objective import Term
from sightline.train.parallel.ranks import Ranks, accumulating
from sightline.train.precision import Precision


class OneLoss(ABC):
    """See `Objective`. `name`: of the loss, and of its only term."""

    name: str
    unit: str
    balance: Balance | None = None
    overlaps = True

    def __init__(self) -> None:
        self.weights: Mapping[Term, float] = {self.name: 1.0}

    @abstractmethod
    def check(self, model: VLM) -> None:
        """See `Objective`."""

    @abstractmethod
    def forward(self, module: nn.Module, batch: Batch) -> object:
        """See `Objective`."""

    @abstractmethod
    def loss(self, module: nn.Module, batch: Batch) -> tuple[Tensor, int]:
        """The summed loss of a batch on the model's device, and what it is a sum over."""

    @abstractmethod
    def count(self, batch: Batch) -> int:
        """The same count, without a forward pass."""

    def before_step(self, step: int, total: int) -> None:  # noqa: B027
        """See `Objective`. Every step is like every other."""

    def after_step(self, module: nn.Module) -> None:  # noqa: B027
        """See `Objective`. The weights are all that moves."""

    def counts(self, batches: Sequence[Batch]) -> dict[Term, float]:
        """See `Objective`."""
        return {self.name: float(sum(map(self.count, batches)))}

    def backward(
        self,
        module: nn.Module,
        batches: Sequence[Batch],
        factors: Mapping[Term, float],
        precision: Precision,
        ranks: Ranks,
    ) -> dict[Term, Tensor]:
        """See `Objective`."""
        total = torch.zeros((), device=ranks.device)
        for i, batch in enumerate(batches):
            last = i == len(batches) - 1
            with accumulating(module) if not last else torch.enable_grad():
                with precision.autocast():
                    loss, _ = self.loss(module, batch.to(ranks.device))
                precision.backward(loss * factors[self.name])
            total += loss.detach()
        return {self.name: total}

    def value(self, model: VLM, batch: Batch) -> dict[Term, tuple[Tensor, float]]:
        """See `Objective`."""
        loss, count = self.loss(model, batch)
        return {self.name: (loss, float(count))}
