"""The part of a model's slow copy in a step over pairs (ALBEF, arXiv 2107.07651, sections 3.2 and 3.3).

Pairs are compared with what the slow copy makes of all ranks' pairs and, behind those, of the pairs in the queue; the
student's gradients reach its own embeddings alone. The copy's opinion of the same comparison is a share of the target.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sightline.data.batch import Batch
from sightline.losses.alike import alike
from sightline.losses.contrastive import info_nce
from sightline.losses.distil import soft_targets
from sightline.models.fused import FusedPairVLM
from sightline.models.pairs import Pairs
from sightline.train.objectives.embedded import Embedded
from sightline.train.parallel.gather import gather
from sightline.train.parallel.ranks import Ranks


def slow_copy_of(model: object) -> FusedPairVLM | None:
    """The slow copy that `model` carries."""
    return model.teacher if isinstance(model, FusedPairVLM) else None


@torch.no_grad()
def slow_pairs(model: object, batch: Batch) -> Pairs | None:
    """What the slow copy makes of a batch. It is in evaluation mode, so it draws no random numbers."""
    slow = slow_copy_of(model)
    return None if slow is None else slow.represent(batch)


def among_past(
    own: Embedded, model: FusedPairVLM, ranks: Ranks, *, smoothing: float, alpha: float
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The summed loss of this rank's pairs, and what is to be put into the queue after the step: all ranks' pairs."""
    assert own.slow_image is not None and own.slow_text is not None
    scale, _ = model.scale_and_bias()
    found = gather(ranks, own.slow_image, own.slow_text, torch.stack([own.ids, own.words], 1))
    image, text, names = found.tensors
    if model.queue is not None:
        image, text, names = model.queue.behind(image, text, names)
    loss, _ = info_nce(
        own.image,
        own.text,
        image,
        text,
        scale,
        own=found.start,
        image_ids=alike(names[:, 0], names[:, 1]),
        smoothing=smoothing,
        targets=soft_targets(own.slow_image, own.slow_text, image, text, scale) if alpha else None,
        alpha=alpha,
    )
    return loss, found.tensors
