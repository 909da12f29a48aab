"""Objectives: how a stage's micro-batches become gradients. One file each; a stage's `objective` picks one."""

from __future__ import annotations

from sightline.recipe.schema import Stage
from sightline.train.objectives.answers import Answers
from sightline.train.objectives.next_token import NextToken
from sightline.train.objectives.objective import Objective, Term
from sightline.train.objectives.pairs import PairLosses

__all__ = ["Answers", "NextToken", "Objective", "PairLosses", "Term", "objective_of"]


def objective_of(stage: Stage, seed: int = 0) -> Objective:
    """The objective that `stage` names. `seed`: of what it draws by itself."""
    if isinstance(stage.objective, dict):
        return PairLosses(stage, seed)
    return Answers() if stage.objective == "answers" else NextToken()
