"""ITM: does this text belong to this image? Two classes, with negatives drawn from the contrastive distribution.

ALBEF (arXiv 2107.07651, section 3.2) and BLIP-2 (arXiv 2301.12597, section 3.2).

Shapes: B own pairs, M pairs in all, S judged pairs, Q queries.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sightline.errors import UserError
from sightline.losses.next_token import next_token

NONE = -1  # no negative exists


@torch.no_grad()
def sample_negatives(
    similarity: Float[Tensor, "B M"],
    image_ids: Int[Tensor, " M"] | None = None,
    *,
    own: int = 0,
    generator: torch.Generator | None = None,
) -> Int[Tensor, " B"]:
    """One hard negative for each row: column j with probability softmax(similarity) among other images' columns.

    Excluded columns leave the softmax before it is normalised, so a distribution that has put everything on the row's
    own pair still has hardest negatives, and the draw never fails.

    Args:
        similarity: scaled similarities of the own images (or texts) with all texts (or images).
        image_ids: equal where images are the same; without them a row's own pair alone is excluded.
        own: the column of row 0's own pair.
        generator: the source of the draw, on the similarities' device.

    Returns:
        A column for each row; NONE (-1) where every column shows the row's own image, as in a batch of one.

    Raises:
        UserError: similarities that are not finite, or shapes that do not fit.
    """
    rows, columns = similarity.shape
    if not 0 <= own <= columns - rows or (image_ids is not None and image_ids.shape != (columns,)):
        ids = None if image_ids is None else tuple(image_ids.shape)
        raise UserError(f"{rows} own pairs from {own} among {columns}, with ids {ids}", where="sample_negatives")
    if not bool(similarity.isfinite().all()):
        raise UserError(
            "similarities are not finite", where="sample_negatives", fix="give the temperature a maximum scale"
        )
    if image_ids is None:
        image_ids = torch.arange(columns, device=similarity.device)
    same = image_ids[own : own + rows, None] == image_ids
    hopeless = same.all(1)
    weights = similarity.float().masked_fill(same & ~hopeless[:, None], -torch.inf).softmax(1)
    if rows == 0:
        return image_ids.new_empty(0)
    drawn = torch.multinomial(weights, 1, generator=generator)[:, 0]
    return drawn.masked_fill(hopeless, NONE)


def matching(logits: Float[Tensor, "S *Q 2"], matches: Int[Tensor, " S"]) -> tuple[Float[Tensor, ""], int]:
    """Summed two-class cross-entropy in nats of the mean logits over queries (class 1: they match), and S.

    Raises:
        UserError: logits that are not two to a pair.
    """
    if logits.shape[-1] != 2 or len(logits) != len(matches):
        raise UserError(
            f"expected logits (S, 2) or (S, Q, 2) for {len(matches)} pairs, got {tuple(logits.shape)}", where="matching"
        )
    return next_token(logits.float().mean(1) if logits.ndim == 3 else logits, matches)
