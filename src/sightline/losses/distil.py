"""Momentum distillation: what a slow copy of the student thinks (ALBEF, arXiv 2107.07651, section 3.3)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sightline.losses.similarity import similarity


@torch.no_grad()
def soft_targets(
    image: Float[Tensor, "B *Q E"],
    text: Float[Tensor, "B E"],
    all_image: Float[Tensor, "M *Q E"],
    all_text: Float[Tensor, "M E"],
    scale: Float[Tensor, ""],
) -> tuple[Float[Tensor, "B M"], Float[Tensor, "B M"]]:
    """The teacher's distributions over all texts and over all images: `targets` of `contrastive.info_nce`.

    All arguments are the teacher's embeddings; `scale` is the student's (equation 6).
    """
    with torch.autocast(image.device.type, enabled=False):
        dtype = torch.promote_types(image.dtype, torch.float32)
        image, text, all_image, all_text = (t.to(dtype) for t in (image, text, all_image, all_text))
        to_text, to_image = similarity(image * scale, all_text)[0], similarity(text * scale, all_image)[0]
    return to_text.softmax(1), to_image.softmax(1)


def ramp(step: int, ramp_steps: int, alpha: float = 0.4) -> float:
    """The teacher's share at 0-based `step`: from 0 in a line to `alpha` over `ramp_steps`, an epoch in ALBEF."""
    return alpha if ramp_steps <= 0 else alpha * min(1.0, step / ramp_steps)
