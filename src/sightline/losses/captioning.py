"""ITG: the caption of an image, token by token, with label smoothing (BLIP-2, arXiv 2301.12597, section 3.2).

What is predicted from what is settled where logits and labels are paired: `data.batch.Batch.supervised`.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from sightline.errors import UserError

IGNORE = -100  # the target of a position that is not supervised: padding


def captioning(
    logits: Float[Tensor, "S V"], targets: Int[Tensor, " S"], smoothing: float = 0.1
) -> tuple[Float[Tensor, ""], int]:
    """Summed cross-entropy over supervised positions, in nats and fp32, and their number (0 where all are padding).

    Args:
        logits: one row a position. targets: its next token, or IGNORE.
        smoothing: share of the target spread over the vocabulary (0.1 in LAVIS' BLIP-2); at 0 this is `next_token`.

    Raises:
        UserError: a smoothing outside [0, 1].
    """
    if not 0 <= smoothing <= 1:
        raise UserError(f"smoothing is {smoothing}, not a share between 0 and 1", where="captioning")
    loss = F.cross_entropy(logits.float(), targets, reduction="sum", ignore_index=IGNORE, label_smoothing=smoothing)
    return loss, int((targets != IGNORE).sum())
