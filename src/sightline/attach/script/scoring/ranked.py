"""Rankings that are measured against the best one of a row in which everything is right, not against the row's own.

So the truth scores as much less as a row has fewer right answers than are looked at. A share of those looked at
(precision at k) is so by intent: it does not ask in which order they come. What does so is a discounted gain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress

import torch
from torch import Tensor

from sightline.attach.script.scoring.verdict import SHORT, Verdict, moved, whole

CLASSES, ROWS = 3, 8  # that are ranked, and rankings, at least
SAYS = "rows in which everything is right"

Score = Callable[[Tensor, Tensor], Mapping[str, float]]


def ranked(pred: Tensor, target: Tensor, score: Score) -> dict[tuple[str, str], Verdict]:
    """By (name of the number, form). `pred`: scores (N, C); `target`: (N, C), 1 for what is right, else 0."""
    if pred.shape != target.shape or pred.dim() != 2 or not pred.is_floating_point() or not _known(pred, target):
        return {}
    yes = target > 0
    one = torch.zeros_like(yes).scatter_(1, yes.int().argmax(1, keepdim=True), True)
    with suppress(ArithmeticError, IndexError, RuntimeError, ValueError):
        truth = score(_said(yes, pred), target)
        short = [n for n, value in truth.items() if 0 < value < 1 - SHORT]
        if not short:
            return {}
        others = [score(moved(_said(yes, pred), by), target) for by in (1, 2)]
        first, second = (score(said, one.to(target.dtype)) for said in (_said(one, pred), _said(one, pred, after=1)))
        every = score(_said(torch.ones_like(yes), pred), torch.ones_like(target))
        return {
            (name, SAYS): Verdict(name, truth[name], tuple(rest[name] for rest in others), 1.0, SAYS)
            for name in short
            if all(name in told for told in (*others, first, second, every))
            if max(rest[name] for rest in others) < truth[name]
            if 0 < second[name] < first[name] * (1 - SHORT) <= 1 - SHORT and first[name] < truth[name] * (1 + SHORT)
            if whole(every[name], set())
        }
    return {}


def _known(pred: Tensor, target: Tensor) -> bool:
    """Whether each row has something right and something wrong, and what is right has the higher scores."""
    yes = target > 0
    if len(pred) < ROWS or pred.shape[1] < CLASSES or not bool(((target == 0) | (target == 1)).all()):
        return False
    if not bool((yes.any(1) & ~yes.all(1)).all()) or bool(pred.isnan().any()):
        return False
    ranks = pred.argsort(1).argsort(1).double()
    return float(ranks[yes].mean()) > float(ranks[~yes].mean())


def _said(yes: Tensor, pred: Tensor, after: int = 0) -> Tensor:
    """Scores by which what is right comes first, or after so many others; no two of a row are the same."""
    order = torch.arange(pred.shape[1], 0, -1, device=pred.device, dtype=pred.dtype).expand_as(pred)
    said = torch.where(yes, order + pred.shape[1], order)
    if after:
        wrong = torch.where(yes, torch.zeros_like(order), order)
        said = said.scatter_add(1, wrong.topk(after, 1).indices, torch.full_like(order[:, :after], 3.0 * pred.shape[1]))
    return said / pred.shape[1]
