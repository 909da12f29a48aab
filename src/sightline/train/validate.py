"""Validation on a held-out data set, always the same rows in the same order: an objective's loss, and accuracy."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from sightline.data.batch import Batch
from sightline.data.dataset import Rows
from sightline.data.encode import Encoder
from sightline.evaluate.answer import Answerer
from sightline.evaluate.marks import is_scored, markable, marks
from sightline.models.build import Built
from sightline.models.vlm import VLM
from sightline.recipe.schema import Evaluate, Recipe
from sightline.train.feed import Supply
from sightline.train.objectives import NextToken, Objective
from sightline.train.parallel.layout import Layout
from sightline.train.parallel.ranks import Ranks
from sightline.train.precision import Precision


@torch.no_grad()
def validation_loss(
    model: VLM,
    supply: Supply,
    encoder: Encoder,
    micro: int,
    precision: Precision,
    layout: Layout,
    objective: Objective | None = None,
    seen: Callable[[Batch], None] | None = None,
) -> tuple[float, int]:
    """The objective's loss (None: next-token, in nats a supervised token), and the count of its first term.

    Each term is a mean over all that it counts. Ranks share the work. The model is in evaluation mode meanwhile, and
    each module in its own mode afterwards. `seen` is told of each batch whose answer counts.
    """
    objective, ranks = objective or NextToken(), layout.ranks
    sums = {name: torch.zeros((), dtype=torch.float64, device=ranks.device) for name in objective.weights}
    counts = dict.fromkeys(objective.weights, 0.0)
    with model.evaluating():
        for first in range(0, len(supply), ranks.world * micro):
            start = first + ranks.rank * micro
            if idle := start >= len(supply):
                if not (layout.sharded or layout.together):
                    continue
                start = first  # weights lie on all ranks, so this one goes along, and its answer does not count
            sequences = [supply[i] for i in range(start, min(start + micro, len(supply)))]
            batch = encoder.collate(sequences).to(ranks.device)
            with precision.autocast():
                found = layout.value(objective, model, batch)
            if seen is not None and not idle:
                seen(batch)
            for name, (loss, count) in found.items() if not idle else ():
                sums[name] += loss
                counts[name] += count
    totals = ranks.sum([*(float(total) for total in sums.values()), *counts.values()])
    means = [loss / max(1.0, count) for loss, count in zip(totals, totals[len(sums) :], strict=False)]
    mean_loss = sum(weight * mean for weight, mean in zip(objective.weights.values(), means, strict=True))
    return mean_loss, int(totals[len(sums)])


def validation_accuracy(built: Built, supply: Supply, settings: Evaluate, precision: Precision, ranks: Ranks) -> float:
    """The mean mark of the model's answers to the questions of `supply`, from 0 to 1. Ranks share the work.

    Answers are marked as the recipe's evaluation marks them: by exact match, where it does not mark answers at all.

    Raises:
        UserError: a row holds no answer to be marked by.
    """
    settings = _scored(settings)
    rows = supply.rows[ranks.rank :: ranks.world]
    answerer = Answerer(built, batch=settings.batch, max_new_tokens=settings.max_new_tokens, precision=precision.name)
    found = marks(settings, rows, answerer(rows)) if rows else []
    total, count = ranks.sum([float(sum(found)), float(len(found))])
    return total / count


def check_markable(recipe: Recipe, rows: Mapping[str, Rows]) -> None:
    """Raise UserError where a run will mark answers, at its end or to stop early, and a question has none."""
    wanted = [(each, each.data) for each in (recipe.evaluate, *recipe.evaluate_after.values()) if is_scored(each)]
    for stage in recipe.stages:
        if stage.early_stop and stage.early_stop.metric == "accuracy":
            wanted.append((_scored(recipe.evaluate), stage.validation or recipe.evaluate.validation))
    for settings, name in wanted:
        if name is not None and name in rows:
            markable(settings, rows[name].rows)


def _scored(settings: Evaluate) -> Evaluate:
    return settings if is_scored(settings) else settings.model_copy(update={"metric": "exact-match"})
