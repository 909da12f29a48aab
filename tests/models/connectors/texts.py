"""Texts as a batch, without an encoder."""

from __future__ import annotations

import torch
from torch import Tensor

from sightline.data.batch import IGNORE, Batch


def batch_of(input_ids: Tensor, mask: Tensor, features: Tensor | None = None) -> Batch:
    """Every token but the first is supervised; text i belongs to image i."""
    labels = torch.where(mask, input_ids, IGNORE)
    labels[:, 0] = IGNORE
    count, length = input_ids.shape
    return Batch(
        input_ids=input_ids,
        labels=labels,
        attention_mask=mask,
        position_ids=torch.arange(length).expand(count, -1),
        group_ids=torch.zeros_like(input_ids),
        segment_ids=torch.zeros_like(input_ids),
        image_index=torch.arange(count),
        pixel_values=None,
        features=features,
        image_keys=tuple(str(i) for i in range(count)),
        examples=(),
    )
