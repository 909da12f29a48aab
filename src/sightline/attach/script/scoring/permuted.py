"""Classes that the model has in another order than the labels: each is said as another, and no two as the same."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

CLASSES = (3, 64)  # the least (two in turn are yes for no, which a loss may ask), and the most
ROWS = 5  # of each class
MOSTLY = 0.6  # of a class's rows are said as one and the same


def permuted(pred: Any, target: Any) -> Any:
    """The target as it is said, row by row; None where that is as it is, or where it is not clear.

    Both are tensors of whole numbers or lists of texts, one a row.
    """
    said, wanted = (one.tolist() if isinstance(one, Tensor) else one for one in (pred, target))
    by = _turned(said, wanted)
    if by is None:
        return None
    turned = [by[one] for one in wanted]
    return torch.tensor(turned, dtype=pred.dtype, device=pred.device) if isinstance(pred, Tensor) else turned


def _turned(said: Sequence[Any], wanted: Sequence[Any]) -> dict[Any, Any] | None:
    met: dict[Any, Counter[Any]] = defaultdict(Counter)
    for one, other in zip(said, wanted, strict=True):
        met[other][one] += 1
        if len(met) > CLASSES[1]:
            return None
    if len(met) < CLASSES[0] or min(count.total() for count in met.values()) < ROWS:
        return None
    most = {other: count.most_common(1)[0] for other, count in met.items()}
    by = {other: one for other, (one, _) in most.items()}
    clear = all(many >= MOSTLY * met[other].total() for other, (_, many) in most.items())
    same = all(one == other for other, one in by.items())
    return by if clear and not same and set(by.values()) == set(by) else None
