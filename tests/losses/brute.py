"""Contrastive losses in fp64 from their formulas, pair by pair where it can be, with plain autograd."""

from __future__ import annotations

import torch
from torch import Tensor

Pairs = tuple[Tensor, Tensor]


def embeddings(pairs: int, width: int = 16, queries: int | None = None, seed: int = 0) -> Pairs:
    """Unit vectors, fp64: images (pairs, [queries,] width) and texts (pairs, width)."""
    generator = torch.Generator().manual_seed(seed)
    shape = (pairs, width) if queries is None else (pairs, queries, width)
    image = torch.randn(shape, generator=generator, dtype=torch.float64)
    text = torch.randn(pairs, width, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(image, dim=-1), torch.nn.functional.normalize(text, dim=-1)


def similarities(rows: Tensor, columns: Tensor) -> Tensor:
    if rows.ndim == 3:
        return torch.stack(
            [torch.stack([(columns[j] * row).sum(-1).max() for j in range(len(columns))]) for row in rows]
        )
    if columns.ndim == 3:
        return similarities(columns, rows).T
    return (rows[:, None] * columns[None]).sum(-1)


def hard_targets(rows: int, columns: int, own: int, ids: Tensor | None, smoothing: float) -> Tensor:
    """Equal shares over the pairs of the row's image, then smoothed; one entry at a time."""
    names = list(range(columns)) if ids is None else ids.tolist()
    target = torch.zeros(rows, columns, dtype=torch.float64)
    for i in range(rows):
        same = [j for j in range(columns) if names[j] == names[own + i]]
        for j in range(columns):
            target[i, j] = (1 - smoothing) * (j in same) / len(same) + smoothing / columns
    return target


def info_nce(
    image: Tensor,
    text: Tensor,
    all_image: Tensor,
    all_text: Tensor,
    scale: Tensor,
    own: int = 0,
    image_ids: Tensor | None = None,
    smoothing: float = 0.0,
    targets: tuple[Tensor, Tensor] | None = None,
    alpha: float = 0.0,
) -> Tensor:
    """Mean over both directions of the summed cross-entropies."""
    hard = hard_targets(len(image), len(all_image), own, image_ids, smoothing)
    total = torch.zeros((), dtype=torch.float64)
    for way, (rows, columns) in enumerate(((image, all_text), (text, all_image))):
        target = hard if targets is None else (1 - alpha) * hard + alpha * targets[way]
        logits = scale * similarities(rows, columns)
        total = total - (target * logits.log_softmax(1)).sum() / 2
    return total


def sigmoid(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, positive: Tensor) -> Tensor:
    """-log sigmoid(z (scale image.text + bias)) summed over all pairs, z = +1 where `positive`, else -1."""
    z = positive.double() * 2 - 1
    return -(z * (scale * similarities(image, text) + bias)).sigmoid().log().sum()
