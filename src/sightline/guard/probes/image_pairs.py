"""Does the model look? The loss of each text with its own image, and with another row's image."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sightline.guard.evidence import IGNORE, ImagePairsSeen
from sightline.guard.probes.call import Call, places
from sightline.guard.probes.reads import before_text
from sightline.guard.probes.refused import refusable
from sightline.guard.probes.restore import untouched

IMAGES = ("pixel_values", "features")


@refusable
def image_pairs(call: Call, step: int) -> ImagePairsSeen | None:
    """Compare the per-row loss on `call`'s batch with that on the same batch with its images rolled by one.

    Needs two images, and logits whose places are known (see `places`) with labels aligned to the ids; where the host
    keeps its labels to itself, every token of the text counts. Rolling keeps
    the images' own statistics, so what is left is whether *this* image matters to *this* text. A batch whose images
    are all the same, or are cut into unlike numbers of patches, can show nothing.
    """
    name = next((n for n in IMAGES if (t := call.tensor(n)) is not None and len(t) > 1), None)
    if name is None:
        return None
    images = call.tensor(name)
    assert images is not None
    other_images = _rolled(images, call.tensor("image_grid_thw"))
    if other_images is None or torch.equal(images, other_images):
        return None
    with untouched(call.model), torch.no_grad():
        call.model.eval()
        own, first = _losses(call), 0
        if own is None and (first := before_text(call) or 0):
            own = _losses(call, first)
        other = None if own is None else _losses(call.changed(**{name: other_images}), first)
    if own is None or other is None or not len(own):
        return None
    return ImagePairsSeen(step, own.cpu(), other.cpu(), changed=not torch.equal(own, other))


def _rolled(images: Tensor, grid: Tensor | None) -> Tensor | None:
    """Each image in the next one's place. `grid` (n, 3): patches of each image in time, height and width, where
    `images` holds the patches of all images one after the other."""
    if grid is None:
        return images.roll(1, dims=0)
    if len(grid) < 2 or not (grid == grid[0]).all():
        return None
    return images.roll(len(images) // len(grid), dims=0)


def _losses(call: Call, first: int = 0) -> Tensor | None:
    """(n,) float32: mean negative log-likelihood of each row that has supervised tokens.

    `first`: the first of the text's logits, where those of the images come before.
    """
    result = call.unfused().run()
    if first and result.logits is not None:
        result = replace(result, logits=result.logits[:, first:])
    ids, labels, where = call.tensor("input_ids"), call.tensor("labels"), places(call, result)
    if result.logits is None or ids is None or where is None:
        return None
    if labels is None:  # placeholders may have ids that no logit stands for
        labels = ids.masked_fill((ids < 0) | (ids >= result.logits.shape[-1]), IGNORE)
    rows, columns = where
    inner = columns < labels.shape[1] - 1  # the last position predicts nothing
    targets = labels[rows[inner], columns[inner] + 1]
    logits = result.logits.flatten(0, -2)[inner].float()
    each = cross_entropy(logits, targets, reduction="none", ignore_index=IGNORE)
    sums = torch.zeros(len(labels), device=each.device).index_add_(0, rows[inner], each)
    counts = (labels[:, 1:] != IGNORE).sum(dim=1)
    return (sums / counts.clamp(min=1))[counts > 0]
