"""MLM: masked words from their context and the image, with a momentum teacher (ALBEF, arXiv 2107.07651, eq. 4, 7)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from sightline.errors import UserError

IGNORE = -100  # the target of a token that was not masked


def masked_words(
    logits: Float[Tensor, "S V"],
    targets: Int[Tensor, " S"],
    teacher: Float[Tensor, "S V"] | None = None,
    alpha: float = 0.0,
) -> tuple[Float[Tensor, ""], int]:
    """Summed cross-entropy with (1 - alpha) the masked word + alpha softmax(teacher), and the number of masked words.

    In nats and fp32. Positions whose target is IGNORE count for nothing, the teacher's share included.

    Args:
        logits: the student's, one row a position. targets: the word that was masked there, or IGNORE.
        teacher: the momentum model's logits; no gradient reaches them.
        alpha: the teacher's share of the target (0.4 in ALBEF, ramped up over the first epoch).

    Raises:
        UserError: an alpha outside [0, 1], or one above 0 without a teacher.
    """
    if not 0 <= alpha <= 1 or (alpha and teacher is None):
        raise UserError(f"alpha is {alpha} {'with' if teacher is not None else 'without'} a teacher", where="masked")
    kept = targets != IGNORE
    logits, count = logits.float(), int(kept.sum())
    loss = F.cross_entropy(logits, targets, reduction="sum", ignore_index=IGNORE)
    if teacher is None or not alpha:
        return loss, count
    soft = teacher.detach().float()[kept].softmax(1)
    distilled = F.cross_entropy(logits[kept], soft, reduction="sum")
    return torch.lerp(loss, distilled, alpha), count
