"""Objectives: how a stage's micro-batches become gradients. One file each; a stage's `objective` picks one."""

from __future__ import annotations

from typing import Any

from sightline.data.scale import scale_of
from sightline.recipe.schema import Stage
from sightline.train.objectives.adversarial import Attacked
from sightline.train.objectives.answers import Answers
from sightline.train.objectives.next_token import NextToken
from sightline.train.objectives.objective import Objective, Term
from sightline.train.objectives.pairs import PairLosses

__all__ = ["Answers", "Attacked", "NextToken", "Objective", "PairLosses", "Term", "objective_of"]


def objective_of(stage: Stage, seed: int = 0, encoder: Any = None) -> Objective:
    """The objective that `stage` names.

    Args:
        seed: of what it draws by itself.
        encoder: what the stage learns from is encoded by it; needed where pictures are attacked.
    """
    if isinstance(stage.objective, dict):
        return PairLosses(stage, seed)
    plain = Answers() if stage.objective == "answers" else NextToken()
    return plain if stage.adversarial is None else Attacked(plain, stage.adversarial, scale_of(encoder), seed)
