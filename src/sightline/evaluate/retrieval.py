"""Image-text retrieval: at which rank the right one stands, and how often that is among the first k.

Pure functions of a similarity matrix. A query's rank is that of its best right answer. Wrong answers that score the
same stand before it: a model that gives every pair one score has found nothing (sorted at random, it would seem to).

Shapes: N queries, M candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sightline.errors import UserError
from sightline.evaluate.score import wilson

KS = (1, 5, 10)


@dataclass(frozen=True, slots=True)
class Ranks:
    """Of each query: the 1-based rank of its best right answer among `candidates`, `right` of which are right."""

    rank: Int[Tensor, " N"]
    right: Int[Tensor, " N"]
    candidates: int

    def recall(self, k: int) -> float:
        """The share of queries whose right answer is among the first `k`."""
        return float((self.rank <= k).double().mean())

    def chance(self, k: int) -> float:
        """The same for candidates in an order of chance."""
        if k >= self.candidates:
            return 1.0
        whole = comb(self.candidates, k)
        each = [1 - comb(self.candidates - right, k) / whole for right in self.right.tolist()]
        return sum(each) / len(each)

    def facts(self, ks: Sequence[int] = KS) -> dict[str, Any]:
        """What `evaluation.json` says of one direction."""
        count = len(self.rank)
        return {
            "queries": count,
            "candidates": self.candidates,
            "recall": {str(k): self.recall(k) for k in ks},
            "interval": {str(k): list(wilson(int((self.rank <= k).sum()), count)) for k in ks},
            "chance": {str(k): self.chance(k) for k in ks},
            "median_rank": float(self.rank.double().median()),
        }


def ranks(similarity: Float[Tensor, "N M"], right: Bool[Tensor, "N M"]) -> Ranks:
    """Ranks of the right answers.

    Args:
        similarity: of each query with each candidate; higher is nearer. -inf for what was not looked at.
        right: which candidates answer which query.

    Raises:
        UserError: a query without a right answer, a NaN, or shapes that differ.
    """
    if similarity.shape != right.shape:
        raise UserError(f"similarities {tuple(similarity.shape)} and answers {tuple(right.shape)} differ in shape")
    if bool(similarity.isnan().any()):
        raise UserError("the model gives similarities that are no numbers", where="evaluate.metric")
    if len(lost := (~right.any(1)).nonzero().flatten()):
        raise UserError(f"query {int(lost[0])} has no right answer among the candidates", where="evaluate.data")
    best = similarity.masked_fill(~right, -torch.inf).amax(1)
    before = ((similarity >= best[:, None]) & ~right).sum(1)
    return Ranks(before.cpu() + 1, right.sum(1).cpu(), similarity.shape[1])


def nearness(image: Float[Tensor, "N *Q E"], classes: Float[Tensor, "C P E"]) -> Float[Tensor, "N C"]:
    """Cosine of each image and each of C classes, a class being the mean of the unit vectors of its P prompts.

    CLIP, arXiv 2103.00020, section 3.1.4: prompts are averaged as embeddings, and the mean is scaled to length 1. An
    image with several embeddings counts by the best.
    """
    means = F.normalize(F.normalize(classes, dim=-1).mean(1), dim=-1)
    cosines = F.normalize(image, dim=-1) @ means.T
    return cosines.amax(1) if cosines.ndim == 3 else cosines


def classify(image: Float[Tensor, "N *Q E"], classes: Float[Tensor, "C P E"]) -> Int[Tensor, " N"]:
    """Zero-shot classes of images: the nearest of C classes (`nearness`)."""
    return nearness(image, classes).argmax(1)
