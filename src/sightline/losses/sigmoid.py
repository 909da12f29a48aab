"""SigLIP: every image-text pair of the batch is a two-class question of its own (arXiv 2303.15343, section 3.2).

Nothing couples the pairs, so texts may come a block at a time: a block is summed chunk by chunk, gradients included,
and blocks of other ranks arrive by `train/parallel/ring.py`.

Shapes: B images, M texts of one block, E embedding width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from sightline.errors import UserError
from sightline.losses.similarity import add_gradients, chunks, gradient_room, room


def pairwise_sigmoid(
    image: Float[Tensor, "B E"],
    text: Float[Tensor, "M E"],
    scale: Float[Tensor, ""],
    bias: Float[Tensor, ""],
    *,
    own: int | None = 0,
    image_ids: Int[Tensor, " B"] | None = None,
    text_ids: Int[Tensor, " M"] | None = None,
) -> tuple[Float[Tensor, ""], int]:
    """Summed -log sigmoid(z (scale image.text + bias)) over all B times M pairs, z = 1 on positives and -1 elsewhere.

    The count is the number of images, by which the paper divides; over a ring, count them once.

    Args:
        image, text: embeddings, usually of length 1.
        scale, bias: the paper starts at ln 10 (as a log) and -10 for batches of 32 thousand.
        own: the text of image 0; image i's is the i-th after it. None for a block of another rank, all negatives.
        image_ids, text_ids: the image of each row and the image that each text is of; where they are equal the pair is
            a positive, whatever `own` says.

    Raises:
        UserError: shapes that do not fit, `own` out of range, one kind of ids alone, or a scale or bias not finite.
    """
    _check(image, text, scale, bias, own, image_ids, text_ids)
    dtype = torch.promote_types(image.dtype, torch.float32)
    with torch.autocast(image.device.type, enabled=False):
        scale, bias = scale.reshape(()), bias.reshape(())  # some models keep them as (1,)
        inputs = [tensor.to(dtype) for tensor in (image, text, scale, bias)]
        if len(image) * len(text) <= SMALL:
            wrong = torch.addmm(inputs[3], inputs[0] * inputs[2], inputs[1].T)
            positive = _positives(wrong, own, image_ids, text_ids)
            return F.softplus(wrong if positive is None else torch.where(positive, -wrong, wrong)).sum(), len(image)
        return _Block.apply(*inputs, own, image_ids, text_ids), len(image)


PIECE = 1 << 18  # similarities whose losses are summed at once: 1 MB in fp32 stays in the cache
SMALL = 1 << 14  # similarities; up to here plain tensor operations are faster


def _positives(
    like: Float[Tensor, "B M"], own: int | None, image_ids: Tensor | None, text_ids: Tensor | None
) -> Tensor | None:
    if image_ids is not None and text_ids is not None:
        return image_ids[:, None] == text_ids
    if own is None:
        return None
    mask = torch.zeros_like(like, dtype=torch.bool)
    _pairs(mask, own, slice(0, len(like))).fill_(True)
    return mask


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        image: Tensor,
        text: Tensor,
        scale: Tensor,
        bias: Tensor,
        own: int | None,
        image_ids: Tensor | None,
        text_ids: Tensor | None,
    ) -> Tensor:
        grads = None
        if any(ctx.needs_input_grad):
            grads = gradient_room(image, text)
        losses, by_bias = (image.new_empty(len(image)) for _ in range(2))  # of each row: sums of sums lose least
        space, times = room(image, text), float(scale)
        for part in chunks(image, text):
            # The logit, and after the next lines -z times it: large where the pair is judged wrongly.
            out = space[: part.stop - part.start]
            wrong = torch.addmm(bias, image[part], text.T, alpha=times, out=out)
            positive = None
            if image_ids is not None and text_ids is not None:
                positive = image_ids[part, None] == text_ids
            elif own is not None:
                positive = _pairs(wrong, own, part)
            _negate(wrong, positive)
            size = max(1, PIECE // max(1, len(text)))
            for piece, loss in zip(wrong.split(size), losses[part].split(size), strict=True):
                torch.sum(F.softplus(piece), 1, out=loss)
            if grads is not None:
                _negate(wrong.sigmoid_(), positive)
                by_bias[part] = wrong.sum(1)
                add_gradients(wrong, None, image[part], text, grads[0][part], grads[1], part.start == 0)
        if grads is not None:
            ctx.save_for_backward(*grads, (grads[0] * image).sum(), by_bias.sum(), scale)
        return losses.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        by_image, by_text, by_scale, by_bias, scale = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        return (
            by_image * (grad * scale) if wanted[0] else None,
            by_text * (grad * scale) if wanted[1] else None,
            by_scale * grad if wanted[2] else None,
            by_bias * grad if wanted[3] else None,
            None,
            None,
            None,
        )


def _pairs(block: Float[Tensor, "b M"], own: int, part: slice) -> Float[Tensor, " b"]:
    """A view of the places in `block` where an image meets its own text."""
    return block[:, own + part.start : own + part.stop].diagonal()


def _negate(block: Float[Tensor, "b M"], positive: Tensor | None) -> None:
    """Turn the sign of positives: a mask of the block's shape, or a view of the places themselves."""
    if positive is None:
        return
    if positive.dtype == torch.bool:
        torch.where(positive, -block, block, out=block)
    else:
        positive.neg_()


def _check(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    bias: Tensor,
    own: int | None,
    image_ids: Tensor | None,
    text_ids: Tensor | None,
) -> None:
    if image.ndim != 2 or text.ndim != 2 or image.shape[1] != text.shape[1]:
        raise UserError(
            f"expected images (B, E) and texts (M, E), got {tuple(image.shape)} and {tuple(text.shape)}",
            where="pairwise_sigmoid",
            fix="project both towers to one embedding width",
        )
    if (image_ids is None) != (text_ids is None):
        raise UserError("image_ids and text_ids are needed together", where="pairwise_sigmoid")
    for name, ids, rows in (("image_ids", image_ids, len(image)), ("text_ids", text_ids, len(text))):
        if ids is not None and ids.shape != (rows,):
            raise UserError(f"{name} has shape {tuple(ids.shape)} for {rows} rows", where="pairwise_sigmoid")
    if image_ids is None and own is not None and not 0 <= own <= len(text) - len(image):
        raise UserError(
            f"own texts {own} to {own + len(image)} are not among the {len(text)}", where="pairwise_sigmoid"
        )
    if not bool(torch.isfinite(scale + bias)):
        raise UserError(
            f"the similarity scale is {float(scale)} and the bias {float(bias)}",
            where="pairwise_sigmoid",
            fix="give the temperature a maximum scale",
        )
