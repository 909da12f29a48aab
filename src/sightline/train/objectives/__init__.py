"""Objectives: how a stage's micro-batches become gradients. One file each; a stage's `objective` picks one."""

from __future__ import annotations

from sightline.errors import UserError
from sightline.recipe.schema import Stage
from sightline.train.objectives.next_token import NextToken
from sightline.train.objectives.objective import Objective, Term

__all__ = ["NextToken", "Objective", "Term", "objective_of"]


def objective_of(stage: Stage) -> Objective:
    """The objective that `stage` names."""
    if stage.objective != "next-token":
        raise UserError(
            "losses over pairs cannot be trained with yet",
            where=f"stages.{stage.name}.objective",
            fix="set it to next-token",
        )
    return NextToken()
