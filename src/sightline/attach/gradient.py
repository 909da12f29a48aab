"""What a loss really supervised, read off its gradient with respect to the logits (see `LossSeen`)."""

from __future__ import annotations

import torch
from torch import Tensor

from sightline.guard.evidence import IGNORE, LossSeen

ROWS = 256  # positions whose softmax is computed: enough for a median, few enough for a vocabulary of 250,000
SUM_TOLERANCE = 0.05  # softmax gradients sum to 0, those of -log p to -1 (relative); bf16 rounding stays below 0.05
ONE_TOLERANCE = 1e-3  # probabilities sum to one within float16 rounding


def read_gradient(logits: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Statistics (4,) float32 (supervised, weight, softmax rows, probability rows) and targets (...) int64, on device.

    No device-to-host wait, and no temporary of the size of the logits.
    """
    vectors, gradients = logits.detach().flatten(0, -2), grad.detach().flatten(0, -2)
    least, at = gradients.min(dim=-1)
    targets = at.masked_fill(least >= 0, IGNORE)
    rows = least.topk(min(ROWS, len(least)), largest=False).indices
    z, pull = vectors[rows].float(), least[rows].float()
    seen = pull < 0
    chosen = z.log_softmax(dim=-1).gather(-1, at[rows, None]).squeeze(-1)
    weight = (pull / torch.expm1(chosen)).masked_fill(~seen, float("nan")).nanmedian()
    total = seen.sum().clamp(min=1)
    balanced = (gradients[rows].float().sum(dim=-1).abs() <= SUM_TOLERANCE * pull.abs()) & seen
    likely = (z.min(dim=-1).values >= 0) & ((z.sum(dim=-1) - 1).abs() <= ONE_TOLERANCE) & seen
    statistics = torch.stack([(least < 0).sum().float(), weight, balanced.sum() / total, likely.sum() / total])
    return statistics, targets.view(grad.shape[:-1])


def loss_seen(step: int, micro: int, tensors: list[Tensor]) -> LossSeen:
    """The evidence from `read_gradient`'s tensors on the CPU, followed by input ids where known."""
    statistics, targets = tensors[:2]
    ids = tensors[2] if len(tensors) > 2 else None
    supervised, weight, balanced, likely = statistics.tolist()
    placed = ids is not None and ids.shape == targets.shape
    return LossSeen(
        step=step,
        micro=micro,
        supervised=int(supervised),
        weight=weight if weight == weight else None,
        softmax_rows=balanced,
        probability_rows=likely,
        input_ids=ids,
        targets=targets if placed else None,
    )
