"""InfoNCE over image-text pairs, both ways (ITC), in memory that does not grow with the square of the batch.

A row's loss is the cross-entropy of softmax(scale * similarities) with its targets, averaged over the two directions
(CLIP, arXiv 2103.00020, figure 3). Targets are equal over all captions of one image (ALBEF, arXiv 2107.07651, section
3.2), smoothed, and mixed with a teacher's (ibid., equation 6). Similarities are made a chunk at a time; a chunk's
gradient is made where it is at hand, so the backward pass only scales (the idea of Liger Kernel, arXiv 2410.10989, for
cross-entropy). The same similarities serve both directions: where one process holds all pairs (`info_nce` of those
pairs), and where each holds its own images and all texts, and they tell each other what a text's similarities add up
to (`info_nce_apart`).

Shapes: B own pairs, M pairs in all, Q embeddings of one image, E embedding width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from sightline.losses.goal import Goal, check_targets, positives
from sightline.losses.similarity import add_gradients, check_pairs, chunks, gradient_room, room, similarity

SMALL = 1 << 14  # similarities; up to here plain tensor operations are faster


def info_nce(
    image: Float[Tensor, "B *Q E"],
    text: Float[Tensor, "B E"],
    all_image: Float[Tensor, "M *Q E"],
    all_text: Float[Tensor, "M E"],
    scale: Float[Tensor, ""],
    *,
    own: int = 0,
    image_ids: Int[Tensor, " M"] | None = None,
    smoothing: float = 0.0,
    targets: tuple[Float[Tensor, "B M"], Float[Tensor, "B M"]] | None = None,
    alpha: float = 0.0,
) -> tuple[Float[Tensor, ""], int]:
    """Summed loss of the own pairs against all pairs, in nats and at least fp32, and their number B.

    Args:
        image, text: embeddings of the own pairs, usually of length 1; images with Q embeddings count by the best.
        all_image, all_text: embeddings of all pairs: gathered from ranks, with a queue behind them, or, where one
            process holds everything, `image` and `text` themselves (the same objects: then one similarity matrix
            serves both directions).
        scale: one over the temperature.
        own: where the own pairs stand among all pairs.
        image_ids: equal where images are the same: their captions are positives, not negatives, of one another.
        smoothing: share of the target that is spread over all M pairs.
        targets: a teacher's distributions over texts (for each own image) and over images (for each own text);
            they alone need memory for B times M numbers.
        alpha: the teacher's share of the target.

    Raises:
        UserError: shapes that do not fit, `own` out of range, a scale that is not finite, or shares outside [0, 1].
    """
    check_pairs(image, text, all_image, all_text, own, scale, "info_nce")
    check_targets(len(image), len(all_image), image_ids, smoothing, targets, alpha)
    whole = all_image is image and all_text is text
    dtype = torch.promote_types(image.dtype, torch.float32)
    ids, shares = positives(image_ids, dtype)
    to_text, to_image = (
        Goal(own, len(all_text), ids, shares, smoothing, None if targets is None else targets[i].to(dtype), alpha)
        for i in (0, 1)
    )
    with torch.autocast(image.device.type, enabled=False):
        image, text, scale = image.to(dtype), text.to(dtype), scale.to(dtype).reshape(())
        if len(text) * len(all_text) <= SMALL:
            forth = similarity(image * scale, text if whole else all_text.to(dtype))[0]
            back = forth.T if whole else similarity(text * scale, all_image.to(dtype))[0]
            return (to_text.cross_entropy(forth) + to_image.cross_entropy(back)) / 2, len(image)
        if whole:
            return _BothWays.apply(image, text, scale, to_text, to_image, None), len(image)
        forth = _OneWay.apply(image, all_text.to(dtype), scale, to_text)
        back = _OneWay.apply(text, all_image.to(dtype), scale, to_image)
        return (forth + back) / 2, len(image)


def info_nce_apart(
    image: Float[Tensor, "B *Q E"],
    all_text: Float[Tensor, "M E"],
    scale: Float[Tensor, ""],
    join: Callable[[Tensor], Tensor],
    *,
    own: int = 0,
    image_ids: Int[Tensor, " M"] | None = None,
    smoothing: float = 0.0,
) -> tuple[Float[Tensor, ""], int]:
    """A share of `info_nce` of all pairs, and B: what processes return adds up to the whole, value and gradients.

    It takes half the work of comparing own images with all texts and own texts with all images.

    Args:
        all_text: embeddings of all texts, whose gradients are to be added up over processes (`parallel/gather.py`).
        join: from the log-sum-exp of each text's similarities with the own images to that with all images; every
            process calls it once.
        own, image_ids, smoothing: as for `info_nce`; own text i is that of own image i.

    Raises:
        UserError: as `info_nce`.
    """
    check_pairs(image, all_text[: len(image)], all_text, all_text, own, scale, "info_nce")
    check_targets(len(image), len(all_text), image_ids, smoothing, None, 0.0)
    dtype = torch.promote_types(image.dtype, torch.float32)
    ids, shares = positives(image_ids, dtype)
    goal = Goal(own, len(all_text), ids, shares, smoothing, None, 0.0)
    with torch.autocast(image.device.type, enabled=False):
        inputs = image.to(dtype), all_text.to(dtype), scale.to(dtype).reshape(())
        return _BothWays.apply(*inputs, goal, goal, join), len(image)


class _OneWay(torch.autograd.Function):
    """Sum over rows of the cross-entropy of softmax(scale * rows @ columns.T) with the goal."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, columns: Tensor, scale: Tensor, goal: Goal) -> Tensor:
        learn = any(ctx.needs_input_grad)
        grads = gradient_room(rows, columns) if learn else None
        losses, space = rows.new_empty(len(rows)), room(rows, columns)
        for part in chunks(rows, columns):
            logits, winners = similarity(rows[part] * scale, columns, space)
            target = None if goal.one_hot else goal.hard(part, logits)
            if target is not None:
                target = goal.mixed(target, None if goal.soft is None else goal.soft[part])
            own = logits[:, goal.own + part.start : goal.own + part.stop]
            positive = own.diagonal().clone() if target is None else (target * logits).sum(1)
            top = logits.amax(1)
            total = logits.sub_(top[:, None]).exp_().sum(1)
            losses[part] = total.log() + (top - positive)  # in this order: exactly 0 where the positive is all
            if grads is not None:
                logits.div_(total[:, None])
                if target is None:
                    own.diagonal().sub_(1)
                else:
                    logits.sub_(target)
                add_gradients(logits, winners, rows[part], columns, grads[0][part], grads[1], part.start == 0)
        _keep(ctx, rows, scale, grads)
        return losses.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (*_scaled(ctx, grad), None)


class _BothWays(torch.autograd.Function):
    """Half of the sum, over rows and over columns, of the cross-entropies of a matrix of similarities.

    It is square, or (with `join`) the rows of a square one that belong to this process.
    """

    @staticmethod
    def forward(
        ctx: Any,
        image: Tensor,
        text: Tensor,
        scale: Tensor,
        to_text: Goal,
        to_image: Goal,
        join: Callable[[Tensor], Tensor] | None,
    ) -> Tensor:
        learn = any(ctx.needs_input_grad)
        space = room(image, text)
        work = text.new_empty(max((part.stop - part.start for part in chunks(image, text)), default=0), len(text))
        loss, by_row, by_column, last = _normalisers(image, text, scale, to_text, to_image, join, space, work)
        grads = gradient_room(image, text) if learn else None
        for part in chunks(image, text) if grads is not None else ():
            logits, winners = (
                last if len(by_row) == part.stop - part.start else similarity(image[part] * scale, text, space)
            )
            grad = torch.sub(logits, by_row[part, None], out=work[: len(logits)]).exp_()
            grad += logits.sub_(by_column).exp_()
            if (goals := _goals(part, logits, to_text, to_image)) is None:
                _pairs_of(grad, part, to_text).sub_(2)
            else:
                grad.sub_(goals[0]).sub_(goals[1])
            assert grads is not None
            add_gradients(grad.div_(2), winners, image[part], text, grads[0][part], grads[1], part.start == 0)
        _keep(ctx, image, scale, grads)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (*_scaled(ctx, grad), None, None, None)


def _normalisers(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    to_text: Goal,
    to_image: Goal,
    join: Callable[[Tensor], Tensor] | None,
    space: Tensor,
    work: Tensor,
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor | None]]:
    """The loss, the log-sum-exp of each row and of each column (online, arXiv 1805.02867), and the last chunk's logits.

    The last chunk is all of them where the batch is small, and then need not be made again for the gradient.
    """
    rows, columns = len(image), len(text)
    top_row, sum_row, positive_row = (text.new_empty(rows) for _ in range(3))
    top, total, positive = text.new_full((columns,), -torch.inf), text.new_zeros(columns), text.new_zeros(columns)
    logits, winners = text.new_empty(0, columns), None
    for part in chunks(image, text):
        logits, winners = similarity(image[part] * scale, text, space)
        if (goals := _goals(part, logits, to_text, to_image)) is None:
            positive_row[part] = _pairs_of(logits, part, to_text)
            _own_part(positive, part, to_text).copy_(positive_row[part])
        else:
            positive_row[part] = (goals[0] * logits).sum(1)
            positive += (goals[1] * logits).sum(0)
        del goals
        top_row[part] = logits.amax(1)
        sum_row[part] = torch.sub(logits, top_row[part, None], out=work[: len(logits)]).exp_().sum(1)
        higher = torch.maximum(top, logits.amax(0))
        fresh = torch.sub(logits, higher, out=work[: len(logits)]).exp_().sum(0)
        total = total * (top - higher).exp_() + fresh
        top = higher
    by_row, by_column = sum_row.log() + top_row, total.log() + top
    loss = (sum_row.log() + (top_row - positive_row)).sum()  # in this order: exactly 0 where the positive is all
    if join is None:
        loss = loss + (total.log() + (top - positive)).sum()
    else:
        by_column = join(by_column)
        loss = loss + _own_part(by_column, slice(0, rows), to_text).sum() - positive.sum()
    return loss / 2, by_row, by_column, (logits, winners)


def _pairs_of(block: Float[Tensor, "b M"], part: slice, goal: Goal) -> Float[Tensor, " b"]:
    """A view of where some rows meet their own columns."""
    return block[:, goal.own + part.start : goal.own + part.stop].diagonal()


def _own_part(of_columns: Float[Tensor, " M"], part: slice, goal: Goal) -> Float[Tensor, " b"]:
    """A view of some rows' own columns."""
    return of_columns[goal.own + part.start : goal.own + part.stop]


def _goals(part: slice, like: Tensor, to_text: Goal, to_image: Goal) -> tuple[Tensor, Tensor] | None:
    """Targets of some images over all texts, and of all texts over those images; None where both are one-hot.

    Two pairs' share of each other is the same both ways: pairs of one image are equally many seen from each.
    """
    if to_text.one_hot and to_image.one_hot:
        return None
    hard = to_text.hard(part, like)
    soft = (None, None) if to_text.soft is None else (to_text.soft[part], to_image.soft[:, part].T)  # type: ignore[index]
    return to_text.mixed(hard, soft[0]), to_image.mixed(hard, soft[1])


def _keep(ctx: Any, rows: Tensor, scale: Tensor, grads: tuple[Tensor, Tensor] | None) -> None:
    """Keep the gradients with respect to rows, columns and scale for the backward pass, the first two unscaled."""
    if grads is not None:
        ctx.save_for_backward(*grads, (grads[0] * rows).sum(), scale)


def _scaled(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    rows, columns, by_scale, scale = ctx.saved_tensors
    wanted = ctx.needs_input_grad
    factor = grad * scale
    return (
        rows * factor if wanted[0] else None,
        columns * factor if wanted[1] else None,
        by_scale * grad if wanted[2] else None,
    )
