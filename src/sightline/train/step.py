"""One optimizer step. The only place that divides a loss: by the supervised tokens of all micro-batches and ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sightline.data.batch import Batch
from sightline.errors import UserError
from sightline.losses.next_token import next_token
from sightline.train.parallel.ranks import Ranks, accumulating
from sightline.train.precision import Precision


@dataclass(frozen=True, slots=True)
class StepResult:
    """A step's facts; tensors stay on the device until they are logged.

    Attributes:
        loss_sum: this rank's summed loss in nats, 0-dim fp32.
        tokens: supervised tokens of the step over all ranks.
        grad_norm: total gradient norm before clipping, 0-dim.
        stop: whether some rank was asked to stop.
    """

    loss_sum: Tensor
    tokens: int
    grad_norm: Tensor
    stop: bool


def train_step(
    model: nn.Module,
    batches: Sequence[Batch],
    optimizer: torch.optim.Optimizer,
    precision: Precision,
    ranks: Ranks,
    clip: float | None,
    stop: bool = False,
) -> StepResult:
    """Forward and backward over the micro-batches, clip, step.

    The gradient is that of (sum of token losses) / (supervised tokens), both over the whole step: rows with long
    answers weigh by their tokens however they fall into micro-batches and ranks.

    Raises:
        UserError: a step without any supervised token.
    """
    tokens, stops = ranks.sum([float(sum(batch.tokens for batch in batches)), float(stop)])
    if tokens == 0:
        raise UserError(
            f"no supervised token in a whole step (rows {', '.join(map(str, batches[0].examples[:3]))}, ...)",
            fix="see what is supervised with `sightline check`",
        )
    # DDP averages over ranks, which divides by `world` once more than the token mean does.
    scale = ranks.world / tokens
    loss_sum = torch.zeros((), device=ranks.device)
    for i, batch in enumerate(batches):
        last = i == len(batches) - 1
        with accumulating(model) if not last else torch.enable_grad():
            with precision.autocast():
                logits, targets = model(batch.to(ranks.device))
                loss, _ = next_token(logits, targets)
            precision.scaler.scale(loss * scale).backward()
        loss_sum += loss.detach()
    precision.scaler.unscale_(optimizer)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    grad_norm = nn.utils.clip_grad_norm_(parameters, clip if clip is not None else float("inf"))
    precision.scaler.step(optimizer)
    precision.scaler.update()
    return StepResult(loss_sum, int(tokens), grad_norm, stops > 0)
