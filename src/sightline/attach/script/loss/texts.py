"""Which token of a text each target of a loss is, where a model returns its loss alone.

The graph shows what every position was trained to predict, row after row. That is the text that the model was given,
one place on, behind whatever stands before it (images), or it is something else.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sightline.guard.evidence import IGNORE

SURE = 0.99  # of what is taught is the text: a few placeholders may be replaced
LEAST = 8  # positions that are taught


def behind(ids: Tensor, targets: Tensor) -> tuple[Tensor, Tensor] | None:
    """(B, W) the token at each position, -1 where none of the text's is, and what the position is taught.

    `ids` (B, T) are the text, `targets` (B * W,) those of all positions, IGNORE where nothing is taught. None where
    these are not the next tokens of that text, from its first or second one on to its end.
    """
    rows, length = ids.shape
    if len(targets) % rows or (width := len(targets) // rows) < length - 1:
        return None
    grid = targets.view(rows, width)
    taught = grid != IGNORE
    if int(taught.sum()) < LEAST:
        return None
    found = []
    for first in {
        width - length,
        width - length + 1,
    }:  # the position of the first token: the last may have been cut off
        if first < 0:
            continue
        at = torch.full((rows, first + length), -1, dtype=ids.dtype)
        at[:, first:] = ids
        after = torch.full_like(grid, -1)
        after[:, : first + length - 1] = at[:, 1 : width + 1]
        if float((after == grid)[taught].float().mean()) >= SURE:
            found.append(at[:, :width])
    return (found[0], grid) if len(found) == 1 else None
