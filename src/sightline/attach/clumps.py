"""Which rows of numbers were made of one, with noise: a few at a time lie together, and nothing lies between.

Copies with noise, slices of one patient, measurements of one device are far closer to each other than to any other
row. Told by the gap: of all distances between rows, sorted, some are followed by ones that are twice as large, or half
as large again where they are many. Of rows that are drawn one by one, distances have no such gap behind the first few,
however many dimensions there are; of rows of a few kinds of numbers, two differences are 1.41 times as far as one.
"""

from __future__ import annotations

import torch
from torch import Tensor

GAP = 2.0  # times: copies have a fourth of the variance that lies between rows, or less
PAIRS = 24  # before the gap: of fewer, two in a row may well be so different
NARROW, MANY = 1.45, 0.25  # times, for so many pairs a row
ZERO = 1e-6  # of the largest: what differs by no more was told apart by what is not compared here
GROUP = 12  # rows of a group: of pairs, no more than so many of each row are sorted
WHOLE = 0.9  # of the pairs within groups: a chain of rows, each near to the next one, is a series


def standardized(rows: Tensor) -> Tensor:
    """(n, d) with columns of one scale; those that never change are 0."""
    rows = rows.float() - rows.float().mean(dim=0)
    spread = rows.std(dim=0)
    return rows / spread.clamp_min(1e-12) * (spread > 1e-6 * spread.amax().clamp_min(1e-12))


def clumps(rows: Tensor) -> Tensor:
    """(n, d) rows, all different -> (n, n) bool, which were made of one; the diagonal alone where there is no gap."""
    count = len(rows)
    alone = torch.eye(count, dtype=torch.bool)
    if count < PAIRS or not bool(rows.isfinite().all()):
        return alone
    apart = torch.cdist(
        rows, rows, compute_mode="donot_use_mm_for_euclid_dist" if count < 256 else "use_mm_for_euclid_dist"
    )
    upper = apart[torch.ones(count, count, dtype=torch.bool).triu(1)]
    nearest = upper.topk(min(len(upper), count * GROUP // 2), largest=False).values  # in order
    if len(nearest) <= PAIRS or not float(nearest[-1]):
        return alone
    below = nearest[PAIRS - 1 : -1]
    ratios = nearest[PAIRS:] / below.where(below > ZERO * nearest[-1], torch.inf)
    many = max(0, int(MANY * count) - PAIRS)
    at = int(ratios.argmax())
    if float(ratios[at]) < GAP and len(ratios) > many:
        at = many + int(ratios[many:].argmax())
    if float(ratios[at]) < (NARROW if at >= many else GAP):
        return alone
    return (apart <= nearest[PAIRS - 1 + at]) | alone


def cliques(near: Tensor, groups: Tensor) -> bool:
    """Whether the rows of each group are near to each other, and not each to the next one alone."""
    sizes = groups.bincount()
    inside = int((sizes * (sizes - 1)).sum())
    return int(near.sum()) - len(near) >= WHOLE * inside
