"""Padding that a loss teaches a class which tokens have too: labels of tokens that were filled up with class 0."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sightline.guard.evidence.batches import IGNORE, BatchSeen, LossSeen

if TYPE_CHECKING:
    from torch import Tensor

LEAST, SAME = 8, 0.98  # positions; share of them with one class: what fills labels up is one value
SOFTMAX = 0.9  # of the positions have a gradient of cross-entropy's form


def pads_taught(batch: BatchSeen, loss: LossSeen, given: BatchSeen) -> tuple[int, int | None, bool]:
    """(padding that the loss teaches, the class that it is taught, whether real tokens have that class as well).

    `given`: the batch as the host gave it, with its mask of tokens; `batch` has labels that may be read off the loss.
    """
    taught = 0 if batch.labels is None else int((batch.labels != IGNORE).sum())
    pads = loss.padding(batch.pad_id, _mask(given, loss)) if loss.step == batch.step else 0
    if not pads and loss.step == batch.step and loss.supervised <= taught:
        pads = batch.padded_labels if loss.supervised > taught - batch.padded_labels else 0
        labels = loss.targets if given.labels is None else given.labels  # those that were read off are moved by one
        if labels is not None and batch.pad_id is not None and loss.labels_real(labels.eq(batch.pad_id)):
            pads = 0
    filled = None if pads else taught_padding(batch, loss)
    return (*filled, True) if filled else (pads, batch.pad_id, False)


def _mask(given: BatchSeen, loss: LossSeen) -> Tensor | None:
    """The host's mask, where it is of the ids that the loss was taken of."""
    ids, theirs = given.input_ids, loss.input_ids
    alike = ids is not None and theirs is not None and ids.shape == theirs.shape and bool((ids == theirs).all())
    return given.attention_mask if alike else None


def taught_padding(batch: BatchSeen, loss: LossSeen) -> tuple[int, int] | None:
    """(positions, class): padding with a gradient towards one class, towards which real tokens have one as well.

    None for a class that padding has to itself, and where ids or mask do not say what is padding: it stands at one end
    of rows of several lengths.
    """
    import torch

    ids, targets = batch.input_ids, loss.targets
    if ids is None or targets is None or loss.input_ids is None or loss.softmax_rows < SOFTMAX:
        return None
    if targets.shape != ids.shape or not torch.equal(ids, loss.input_ids) or (real := _real(batch, ids)) is None:
        return None
    found = targets[~real & (targets != IGNORE)]
    if len(found) < LEAST:
        return None
    kind = int(found.mode().values)
    shared = bool((targets[real] == kind).any())
    return (len(found), kind) if shared and float((found == kind).float().mean()) >= SAME else None


def ahead_of(ids: Tensor, pad: Tensor | int) -> Tensor:
    """(B, T) bool, False on the runs of one id at the end of rows."""
    return (ids == pad).flip(1).int().cumprod(dim=1).flip(1) == 0


def filled_ends(ids: Tensor) -> Tensor | None:
    """(B, T) bool, False where one id fills the ends of rows, if it stands nowhere else: it must be padding."""
    last = ids[:, -1].mode().values
    real = ahead_of(ids, last)
    return None if bool(real.all()) or bool((ids[real] == last).any()) else real


def _real(batch: BatchSeen, ids: Tensor) -> Tensor | None:
    """(B, T) True on tokens, False on the padding that ends (or begins) rows."""
    mask = batch.attention_mask
    if mask is None or mask.shape != ids.shape:
        mask = filled_ends(ids) if batch.pad_id is None else ids != batch.pad_id
    if mask is None:
        return None
    mask = mask.bool()
    lengths = mask.sum(dim=1)
    if int(lengths.min()) < 1 or len(set(lengths.tolist())) < 2 or int(lengths.min()) > mask.shape[1] - 2:
        return None
    sides = (mask, mask.flip(1))
    return mask if any(bool((side.int().cumprod(dim=1).sum(dim=1) == lengths).all()) for side in sides) else None
