"""Next-token prediction: cross-entropy of each supervised token given those before it."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def next_token(logits: Float[Tensor, "S V"], targets: Int[Tensor, " S"]) -> tuple[Float[Tensor, ""], int]:
    """Summed cross-entropy over S supervised positions, in nats and fp32, and S.

    A sum, not a mean: the mean over a step is known only when all micro-batches and ranks are counted.
    """
    return F.cross_entropy(logits.float(), targets, reduction="sum"), targets.numel()
