"""Next-token prediction at supervised positions."""

from __future__ import annotations

from torch import Tensor, nn

from sightline.data.batch import Batch
from sightline.errors import UserError
from sightline.losses.next_token import next_token
from sightline.models.pair import PairVLM
from sightline.models.vlm import VLM
from sightline.train.objectives.one_loss import OneLoss


class NextToken(OneLoss):
    """See `Objective`."""

    name = "next-token"
    unit = "tokens"

    def check(self, model: VLM) -> None:
        if isinstance(model, PairVLM):
            raise UserError(
                "a model of two towers side by side writes nothing, so it has no next token to learn",
                where="stages.objective",
                fix="set the stage's objective to losses over pairs, e.g. {itc: 1}",
            )

    def forward(self, module: nn.Module, batch: Batch) -> object:
        return module(batch)

    def loss(self, module: nn.Module, batch: Batch) -> tuple[Tensor, int]:
        return next_token(*module(batch))

    def count(self, batch: Batch) -> int:
        return batch.tokens
