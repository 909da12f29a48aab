"""Next-token prediction at supervised positions: a sum over micro-batches, each with its own backward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from sightline.data.batch import Batch
from sightline.errors import UserError
from sightline.losses.next_token import next_token
from sightline.models.pair import PairVLM
from sightline.models.vlm import VLM
from sightline.train.objectives.balance import Balance
from sightline.train.objectives.objective import Term
from sightline.train.parallel.ranks import Ranks, accumulating
from sightline.train.precision import Precision

NAME = "next-token"


class NextToken:
    """See `Objective`."""

    weights: Mapping[Term, float] = {NAME: 1.0}
    balance: Balance | None = None
    unit = "tokens"
    overlaps = True

    def check(self, model: VLM) -> None:
        if isinstance(model, PairVLM):
            raise UserError(
                "a model of two towers side by side writes nothing, so it has no next token to learn",
                where="stages.objective",
                fix="set the stage's objective to losses over pairs, e.g. {itc: 1}",
            )

    def before_step(self, step: int, total: int) -> None:
        """See `Objective`. Every step is like every other."""

    def after_step(self, module: nn.Module) -> None:
        """See `Objective`. The weights are all that moves."""

    def forward(self, module: nn.Module, batch: Batch) -> object:
        return module(batch)

    def counts(self, batches: Sequence[Batch]) -> dict[Term, float]:
        return {NAME: float(sum(batch.tokens for batch in batches))}

    def backward(
        self,
        module: nn.Module,
        batches: Sequence[Batch],
        factors: Mapping[Term, float],
        precision: Precision,
        ranks: Ranks,
    ) -> dict[Term, Tensor]:
        total = torch.zeros((), device=ranks.device)
        for i, batch in enumerate(batches):
            last = i == len(batches) - 1
            with accumulating(module) if not last else torch.enable_grad():
                with precision.autocast():
                    loss, _ = next_token(*module(batch.to(ranks.device)))
                precision.scaler.scale(loss * factors[NAME]).backward()
            total += loss.detach()
        return {NAME: total}

    def value(self, model: VLM, batch: Batch) -> dict[Term, tuple[Tensor, float]]:
        loss, tokens = next_token(*model(batch))
        return {NAME: (loss, float(tokens))}
