"""What a row of similarities should say: the target distribution of InfoNCE, made for a few rows at a time.

Shapes: B rows, M columns (pairs in all), b some of the rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sightline.errors import UserError


@dataclass(frozen=True, slots=True)
class Goal:
    """The target distribution of each row over all columns, made for a few rows at a time.

    Attributes:
        own: the column of row 0's own pair.
        columns: how many there are (M).
        ids, shares: (M,) the image of each pair and one over its number of pairs; None where all images differ.
        smoothing, soft, alpha: as in `info_nce`.
    """

    own: int
    columns: int
    ids: Tensor | None
    shares: Tensor | None
    smoothing: float
    soft: Tensor | None
    alpha: float

    @property
    def one_hot(self) -> bool:
        """Whether each row's own pair is all of its target."""
        return self.ids is None and not self.smoothing and self.soft is None

    def hard(self, part: slice, like: Tensor) -> Float[Tensor, "b M"]:
        """Targets of some rows without the teacher's share."""
        first, last = self.own + part.start, self.own + part.stop
        if self.ids is None or self.shares is None:
            target = like.new_zeros(last - first, self.columns)
            target[:, first:last].fill_diagonal_(1)
        else:
            same = self.ids[first:last, None] == self.ids
            target = same * self.shares[first:last, None]
        return target.mul_(1 - self.smoothing).add_(self.smoothing / self.columns)

    def mixed(self, hard: Float[Tensor, "b M"], soft: Float[Tensor, "b M"] | None) -> Float[Tensor, "b M"]:
        """`hard` targets with the teacher's `soft` ones."""
        return hard if soft is None else torch.lerp(hard, soft, self.alpha)

    def cross_entropy(self, logits: Float[Tensor, "B M"]) -> Float[Tensor, ""]:
        """Summed cross-entropy of all rows, whose logits are at hand, by plain tensor operations."""
        if self.one_hot:
            target = torch.arange(self.own, self.own + len(logits), device=logits.device)
        else:
            target = self.mixed(self.hard(slice(0, len(logits)), logits), self.soft)
        return F.cross_entropy(logits, target, reduction="sum")


def positives(image_ids: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """The image of each pair and one over its number of pairs; None where all images differ."""
    if image_ids is None:
        return None, None
    _, ids, sizes = image_ids.unique(return_inverse=True, return_counts=True)
    return (None, None) if bool((sizes == 1).all()) else (ids, sizes.to(dtype).reciprocal()[ids])


def check_targets(
    own: int,
    columns: int,
    image_ids: Tensor | None,
    smoothing: float,
    targets: tuple[Tensor, Tensor] | None,
    alpha: float,
) -> None:
    """Refuse shares outside [0, 1], and ids and targets of other pairs. Raises UserError."""
    for name, share in (("smoothing", smoothing), ("alpha", alpha)):
        if not 0 <= share <= 1:
            raise UserError(f"{name} is {share}, not a share between 0 and 1", where="info_nce")
    if image_ids is not None and image_ids.shape != (columns,):
        raise UserError(
            f"image_ids has shape {tuple(image_ids.shape)} for {columns} pairs in all",
            where="info_nce",
            fix="gather the ids like the embeddings, and put the queue's behind them",
        )
    if targets is None and alpha:
        raise UserError(f"alpha is {alpha}, but there are no targets of a teacher", where="info_nce")
    for target in targets or ():
        if target.shape != (own, columns):
            raise UserError(f"targets have shape {tuple(target.shape)}, not ({own}, {columns})", where="info_nce")
