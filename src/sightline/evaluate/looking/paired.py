"""The same questions answered twice: how much better the first time, and whether that can be chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from sightline.evaluate.bootstrap import paired

UNDECIDED = (0.0, 1.0)


def against(marks: Sequence[float], others: Sequence[float], clusters: Sequence[str]) -> dict[str, Any]:
    """`marks` compared with `others`, question by question.

    Args:
        clusters: what questions share, e.g. their image: the bootstrap draws whole clusters.

    Returns:
        `difference` of the means and its 95 % interval; where every mark is 0 or 1 also `lost` (right at first, wrong
        in `others`), `gained` (the reverse) and McNemar's exact `p`, which takes questions as independent.
    """
    seen = paired(marks, others, clusters=clusters)
    facts: dict[str, Any] = {"difference": seen.mean, "difference_interval": [seen.low, seen.high]}
    if all(mark in UNDECIDED for mark in (*marks, *others)):
        lost = sum(one > other for one, other in zip(marks, others, strict=True))
        gained = sum(one < other for one, other in zip(marks, others, strict=True))
        facts |= {"lost": lost, "gained": gained, "p": mcnemar(lost, gained)}
    return facts


def mcnemar(lost: int, gained: int) -> float:
    """The two-sided exact p-value of a fair coin that falls so (McNemar 1947, doi:10.1007/BF02295996)."""
    flips, fewer = lost + gained, min(lost, gained)
    if flips == 0:
        return 1.0
    whole = math.lgamma(flips + 1) - flips * math.log(2)
    tail = math.fsum(math.exp(whole - math.lgamma(k + 1) - math.lgamma(flips - k + 1)) for k in range(fewer + 1))
    return min(1.0, 2 * tail)
