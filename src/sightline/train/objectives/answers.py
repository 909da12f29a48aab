"""Choosing an answer of a vocabulary: the head's logits against what each answer is worth, a mean over rows."""

from __future__ import annotations

from torch import Tensor, nn

from sightline.data.batch import Batch
from sightline.errors import UserError
from sightline.losses.answers import choice
from sightline.models.vlm import VLM
from sightline.train.objectives.one_loss import OneLoss


class Answers(OneLoss):
    """See `Objective`. A row of which no answer is in the vocabulary counts like any other."""

    name = "answers"
    unit = "rows"

    def check(self, model: VLM) -> None:
        if "head" not in model.towers:
            fix = "set model.compose.head, or the objective to next-token"
            raise UserError("this model has no head that chooses answers", where="stages.objective", fix=fix)

    def forward(self, module: nn.Module, batch: Batch) -> object:
        return module(batch, "answers")

    def loss(self, module: nn.Module, batch: Batch) -> tuple[Tensor, int]:
        assert batch.answers is not None, "encoded by an `AnswerEncoder`"
        return choice(module(batch, "answers"), batch.answers)

    def count(self, batch: Batch) -> int:
        assert batch.ends is not None, "encoded by an `AnswerEncoder`"
        return len(batch.ends)
