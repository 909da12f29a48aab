"""Which pairs are no negatives of each other: those that show one image or say one text, and what hangs together so.

Two captions of one image both belong to it, and two images of one caption both belong to that. Who says "a dog" as well
as "a brown dog" of one image, and "a dog" of another, has said nothing that tells the two apart, so all three pairs are
alike. Where texts repeat (class names, answers), a comparison without this punishes what is right.
"""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor


@torch.no_grad()
def alike(image_ids: Int[Tensor, " M"], text_ids: Int[Tensor, " M"]) -> Int[Tensor, " M"]:
    """A number for each pair, equal for pairs that are joined by a chain of equal images and equal texts.

    Each pair takes the least number among its image's and its text's pairs until nothing changes.
    """
    pairs = len(image_ids)
    sides = [ids.unique(return_inverse=True)[1] for ids in (image_ids, text_ids)]
    least = torch.arange(pairs, device=image_ids.device)
    while True:
        before = least
        for side in sides:
            least = least.new_full((pairs,), pairs).scatter_reduce(0, side, least, "amin")[side]
        if torch.equal(before, least):
            return least
