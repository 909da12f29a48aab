"""Do the embeddings collapse? VICReg's three terms as a loss (arXiv 2105.04906, section 4.1), and figures to watch.

Collapsed embeddings, all alike or along a few directions, can look like progress: a loss that falls. The variance term
holds each dimension's spread up, the covariance term keeps dimensions from repeating one another, and the invariance
term draws pairs together.

Shapes: M pairs of all ranks, E embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sightline.errors import UserError

TARGET_SPREAD = 1.0  # gamma, the standard deviation below which a dimension is pushed up
EPSILON = 1e-4  # under the square root, whose slope at 0 has no end


@dataclass(frozen=True, slots=True)
class Terms:
    """The three terms, each a 0-dim tensor with graph: means over the batch, as the paper has them."""

    invariance: Tensor
    variance: Tensor
    covariance: Tensor


@dataclass(frozen=True, slots=True)
class Spread:
    """How spread out embeddings are.

    Attributes:
        deviation: mean standard deviation over dimensions; 1/sqrt(E) for unit vectors in all directions, 0 collapsed.
        dead: share of dimensions whose deviation is under a hundredth of the largest (all of them when all are 0).
        rank: effective rank, exp of the entropy of the covariance's normalised eigenvalues (Roy & Vetterli 2007),
            between 1 and E; 0 for identical rows.
        cosine: mean cosine between different rows; 1 when all point one way. Zero vectors count as 0.
    """

    deviation: float
    dead: float
    rank: float
    cosine: float


def terms(image: Float[Tensor, "M E"], text: Float[Tensor, "M E"]) -> Terms:
    """VICReg's terms of paired embeddings (not of unit length), in at least fp32, as in the paper's algorithm 1.

    The released code halves the variance term once more, which weighs it 12.5 where the paper says 25.

    Raises:
        UserError: fewer than two pairs, which have no variance, or unlike shapes.
    """
    if image.shape != text.shape or image.ndim != 2:
        raise UserError(f"expected two (M, E), got {tuple(image.shape)} and {tuple(text.shape)}", where="vicreg")
    _needs_two(image, "vicreg")
    image, text = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in (image, text))
    with torch.autocast(image.device.type, enabled=False):
        return Terms(
            (image - text).square().mean(),
            _variance_term(image) + _variance_term(text),
            _covariance_term(image) + _covariance_term(text),
        )


def vicreg(
    image: Float[Tensor, "M E"],
    text: Float[Tensor, "M E"],
    weights: tuple[float, float, float] = (25.0, 25.0, 1.0),
    own: int | None = None,
) -> tuple[Float[Tensor, ""], int]:
    """`own` times the weighted sum of invariance, variance and covariance, and `own` (default M).

    The terms belong to the batch as a whole. On several ranks each computes them from all gathered pairs and counts its
    `own` share of it, so that sums over counts, and their gradients, are those of one big batch.
    """
    found, count = terms(image, text), len(image) if own is None else own
    total = weights[0] * found.invariance + weights[1] * found.variance + weights[2] * found.covariance
    return total * count, count


@torch.no_grad()
def spread(rows: Float[Tensor, "M E"]) -> Spread:
    """Figures of one set of embeddings, in fp64.

    Raises:
        UserError: fewer than two rows.
    """
    _needs_two(rows, "spread")
    rows = rows.double() if rows.device.type != "mps" else rows.float()
    deviations = rows.std(0)
    centred = rows - rows.mean(0)
    power = torch.linalg.eigvalsh(centred.T @ centred).clamp_min(0)
    rank = 0.0
    if float(power.sum()) > torch.finfo(rows.dtype).eps * float(rows.square().sum()):
        share = power / power.sum()
        rank = float(torch.special.entr(share).sum().exp())
    unit = rows / rows.norm(dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
    count = len(rows)
    cosine = (unit.sum(0).square().sum() - unit.square().sum()) / (count * (count - 1))
    dead = (deviations <= deviations.max() / 100).double().mean() if rank else torch.ones(())
    return Spread(float(deviations.mean()), float(dead), rank, float(cosine))


def _variance_term(rows: Tensor) -> Tensor:
    return (TARGET_SPREAD - (rows.var(0) + EPSILON).sqrt()).relu().mean()


def _covariance_term(rows: Tensor) -> Tensor:
    """Mean over dimensions of the squared covariances with the others."""
    centred = rows - rows.mean(0)
    covariance = centred.T @ centred / (len(rows) - 1)
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / rows.shape[1]


def _needs_two(rows: Tensor, where: str) -> None:
    if len(rows) < 2:
        raise UserError(
            f"a batch of {len(rows)} has no variance", where=where, fix="gather all ranks, or raise stages.*.batch"
        )
