"""One optimizer step. The only place that divides a loss: by what its terms count, over all micro-batches and ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sightline.data.batch import Batch
from sightline.errors import UserError
from sightline.recipe.schema import Clip
from sightline.train.objectives import NextToken, Objective, Term
from sightline.train.parallel.layout import Layout
from sightline.train.precision import Precision


@dataclass(frozen=True, slots=True)
class StepResult:
    """A step's facts; tensors stay on the device until they are logged.

    Attributes:
        loss_sum: this rank's share of the step's loss times `tokens`, 0-dim fp32, in nats.
        tokens: what the loss is a mean over, over all ranks: supervised tokens, or pairs.
        grad_norm: total gradient norm before clipping, 0-dim.
        stop: whether some rank was asked to stop.
        terms: this rank's share of each term's mean, where the loss has several.
        tower_norms: each tower's gradient norm before clipping, where clipping had to take them.
        weights: of the terms in this step's gradient, where they move; the loss is told by the recipe's.
    """

    loss_sum: Tensor
    tokens: int
    grad_norm: Tensor
    stop: bool
    terms: Mapping[Term, Tensor] = field(default_factory=dict)
    tower_norms: Mapping[str, Tensor] = field(default_factory=dict)
    weights: Mapping[Term, float] = field(default_factory=dict)

    @property
    def overflowed(self) -> Tensor:
        """Whether some gradient is no number, 0-dim: where losses are scaled, the step was skipped then."""
        return ~torch.isfinite(self.grad_norm)


def train_step(
    model: nn.Module,
    batches: Sequence[Batch],
    optimizer: torch.optim.Optimizer,
    precision: Precision,
    layout: Layout,
    clip: Clip | None,
    stop: bool = False,
    objective: Objective | None = None,
) -> StepResult:
    """Forward and backward over the micro-batches, clip, step.

    The gradient is that of the sum over terms of weight x (sum of losses) / (count), sums and counts over the whole
    step: rows with long answers weigh by their tokens however they fall into micro-batches and ranks.

    Args:
        objective: None: next-token prediction.

    Raises:
        UserError: a step without anything to learn from.
    """
    objective = objective or NextToken()
    counts = objective.counts(batches)
    ranks = layout.ranks
    *sums, stops = ranks.sum([*counts.values(), float(layout.agreed(stop))])
    totals = dict(zip(counts, sums, strict=True))
    if not any(totals.values()):
        raise UserError(
            f"no supervised token in a whole step (rows {', '.join(map(str, batches[0].examples[:3]))}, ...)",
            fix="see what is supervised with `sightline check`",
        )
    balance = objective.balance
    weights = balance.weights() if balance else objective.weights
    # Gradients are averaged over ranks, which divides by `world` once more than the mean does.
    factors = {name: weights[name] * ranks.world / total if total else 0.0 for name, total in totals.items()}
    losses = layout.backward(objective, model, batches, factors, precision, optimizer)
    if balance:
        balance.learn(losses, factors, ranks, precision)
    norms = layout.update(optimizer, precision, clip)
    objective.after_step(model)
    tokens = int(next(iter(totals.values())))
    if len(losses) == 1:
        (name,) = losses
        loss = losses[name] * objective.weights[name]
        return StepResult(loss, tokens, norms.total, stops > 0, tower_norms=norms.towers)
    means = {name: loss / totals[name] if totals[name] else loss * 0 for name, loss in losses.items()}
    whole = torch.stack([mean * objective.weights[name] for name, mean in means.items()]).sum()
    moved = weights if balance else {}
    return StepResult(whole * tokens, tokens, norms.total, stops > 0, means, norms.towers, moved)
