"""Similarity of every image with every text, chunk by chunk, also where an image has several embeddings (BLIP-2's).

Shapes: B rows, M columns, Q embeddings (queries) of one image, E embedding width.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sightline.errors import UserError

CHUNK = 1 << 22  # similarities held at once (16 MB in fp32): large enough for full matrix-product speed


def similarity(
    rows: Float[Tensor, "B *Q E"], columns: Float[Tensor, "M *Q E"], out: Tensor | None = None
) -> tuple[Float[Tensor, "B M"], Int[Tensor, "B M"] | None]:
    """Dot products of rows and columns, and which query won where one side has several embeddings.

    The maximum over an image's queries is its similarity with a text (BLIP-2, arXiv 2301.12597, section 3.2). `out` is
    `room` for the products of chunk after chunk.
    """
    flat = rows.flatten(0, -2), columns.flatten(0, -2).T
    products = flat[0] @ flat[1] if out is None else torch.mm(*flat, out=out[: len(flat[0])])
    if rows.ndim == 3:
        best = products.view(len(rows), rows.shape[1], len(columns)).max(1)
        return best.values, best.indices
    if columns.ndim == 3:
        best = products.view(len(rows), len(columns), columns.shape[1]).max(2)
        return best.values, best.indices
    return products, None


def add_gradients(
    grad: Float[Tensor, "B M"],
    winners: Int[Tensor, "B M"] | None,
    rows: Float[Tensor, "B *Q E"],
    columns: Float[Tensor, "M *Q E"],
    grad_rows: Float[Tensor, "B *Q E"],
    grad_columns: Float[Tensor, "M *Q E"],
    first: bool,
) -> None:
    """What the gradient of `similarity(rows, columns)` gives: written to `grad_rows`, added to `grad_columns`.

    `first`: nothing is in `grad_columns` yet.
    """
    if winners is not None:  # only the embedding that won has a gradient
        side = rows if rows.ndim == 3 else columns
        at = 1 if rows.ndim == 3 else 2
        shape = (*grad.shape[:at], side.shape[1], *grad.shape[at:])
        spread = grad.new_zeros(shape).scatter_(at, winners.unsqueeze(at), grad.unsqueeze(at))
        grad = spread.view(rows.shape[:-1].numel(), columns.shape[:-1].numel())
    torch.mm(grad, columns.flatten(0, -2), out=grad_rows.view(-1, rows.shape[-1]))
    flat = grad_columns.view(-1, columns.shape[-1])
    if first:
        torch.mm(grad.T, rows.flatten(0, -2), out=flat)
    else:
        flat.addmm_(grad.T, rows.flatten(0, -2))


def gradient_room(rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Space for both gradients, which `add_gradients` fills chunk by chunk."""
    made = columns.new_empty if len(rows) else columns.new_zeros
    return rows.new_empty(rows.shape), made(columns.shape)


def chunks(rows: Tensor, columns: Tensor) -> Iterator[slice]:
    """Slices of `rows`, each with at most CHUNK similarities (and at least one row)."""
    width = columns.shape[:-1].numel() * rows.shape[1:-1].numel()
    size = max(1, min(len(rows), CHUNK // max(1, width)))
    return (slice(start, min(start + size, len(rows))) for start in range(0, len(rows), size))


def room(rows: Tensor, columns: Tensor) -> Float[Tensor, "b M"]:
    """Space for the similarities of one chunk.

    Taken once: glibc finds it hard to fit an aligned block into the gap that one of the same size has left, so blocks
    that come and go make a process grow.
    """
    first = next(iter(chunks(rows, columns)), slice(0, 0))
    return rows.new_empty((first.stop - first.start) * rows.shape[1:-1].numel(), columns.shape[:-1].numel())


def check_pairs(
    image: Tensor, text: Tensor, all_image: Tensor, all_text: Tensor, own: int, scale: Tensor, where: str
) -> None:
    """Refuse embeddings that are no pairs, whose widths differ, or whose scale is not finite.

    Raises:
        UserError: with the shapes that were seen.
    """
    if len({tensor.shape[-1] for tensor in (image, text, all_image, all_text)}) > 1:
        raise UserError(
            f"image embeddings are {image.shape[-1]} wide (gathered: {all_image.shape[-1]}), "
            f"text embeddings {text.shape[-1]} (gathered: {all_text.shape[-1]})",
            where=where,
            fix="project both towers to one embedding width",
        )
    if len(image) != len(text) or len(all_image) != len(all_text):
        raise UserError(
            f"{len(image)} images for {len(text)} texts, {len(all_image)} for {len(all_text)} in all", where=where
        )
    if text.ndim != 2 or image.ndim not in (2, 3):
        raise UserError(
            f"expected images (B, E) or (B, Q, E) and texts (B, E), got {tuple(image.shape)} and {tuple(text.shape)}",
            where=where,
        )
    if not 0 <= own <= len(all_text) - len(text):
        raise UserError(
            f"own pairs {own} to {own + len(text)} are not among the {len(all_text)} gathered ones", where=where
        )
    if not bool(torch.isfinite(scale)):
        raise UserError(
            f"the similarity scale is {float(scale)}", where=where, fix="give the temperature a maximum scale"
        )
