"""Whether the rows of a batch have anything in common that could tell a class, or are drawn as random numbers are."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

ROWS, WIDE = 16, 512  # rows, of fewer chance is too large; numbers of each that are looked at
DRAWS = 4  # of each column's values, dealt to other rows
ABOVE = 1.3  # times the largest share of one direction among those: 16 rows of noise scatter by a tenth
SEED = 7_204_881  # nobody's: a data set that was drawn from the same seed would be dealt in its own order
MANY = 128  # rows that are looked at, of more
ALIKE = 0.2  # correlation of neighbours: photos and drawings have 0.8 and more, noise none
FEW, AGAIN = 4, 64  # rows for each value of a column; texts that came before
OFTEN, WORDS, UNEVEN = 0.9, 12, 4.0  # of the rows; kinds of words; times the variance of random draws
PAIRS = 0.75  # of the different pairs of neighbours that dealing anew makes: ids drawn one by one have 0.9 and more


def thinned(rows: Tensor) -> Tensor:
    """What is looked at of (B, ...) numbers: (B, at most WIDE); ids as they are. Nothing waits for the device."""
    if not rows.is_floating_point():
        return rows
    flat = rows.detach().reshape(len(rows), -1)
    return flat[:, :: max(1, -(-flat.shape[1] // WIDE))]


def structured(inputs: Iterable[Tensor]) -> bool:
    """Whether one of (B, ...) inputs is no noise: its columns go together, or words choose those beside them."""
    return any(_words(rows) if not rows.is_floating_point() else _together(thinned(rows).double()) for rows in inputs)


def natural_rows(rows: Tensor) -> bool:
    """The same of many rows, (n, F): also of a table with columns of different kinds, and of texts whose words come
    unequally often, or which come again."""
    some = rows[:MANY]
    if rows.is_floating_point():
        return _together(thinned(some).double()) or _kinds(rows.double()) or _smooth(rows.double())
    return _words(some) or _unequal(rows) or (rows.shape[1] > 1 and len(rows) - len(rows.unique(dim=0)) >= AGAIN)


def _smooth(rows: Tensor) -> bool:
    """Whether numbers beside each other are alike, as pixels are and moments of a series."""
    apart = rows - rows.mean(dim=0)
    one, other = apart[:, 1:], apart[:, :-1]
    return rows.shape[1] > FEW and float((one * other).sum()) > ALIKE * float(one.norm() * other.norm())


def _kinds(rows: Tensor) -> bool:
    """Whether some columns of numbers are another sort than others: of few values, or lopsided."""
    values = [len(column.unique()) for column in rows.T]
    if FEW * min(values) < len(rows) < 2 * max(values) and min(values) > 1:
        return True
    spread = (rows - rows.mean(dim=0)) / rows.std(dim=0).clamp(min=1e-30)
    lean = spread.pow(3).mean(dim=0)[rows.std(dim=0) > 0]
    return len(lean) > 1 and float(lean.max() - lean.min()) > 1


def _unequal(ids: Tensor) -> bool:
    """Whether words, apart from those of nearly all rows, come far more and less often than chance has it."""
    kinds, at = ids.unique(return_inverse=True)
    there = torch.zeros(len(ids), len(kinds)).scatter_(1, at, 1.0).sum(dim=0)
    some = there[(kinds >= 0) & (there < OFTEN * len(ids))]
    return len(some) >= WORDS and float(some.var() / some.mean()) > UNEVEN


def _together(rows: Tensor) -> bool:
    """Of numbers: the largest direction of rows beside that of the same columns, each dealt to rows anew."""
    spread = rows.std(dim=0)
    flat = ((rows - rows.mean(dim=0)) / spread)[:, spread > 0]
    if len(flat) < ROWS or flat.shape[1] < 2 or not torch.isfinite(flat).all():
        return False
    dealt = max(_largest(one) for one in _dealt(flat))
    return _largest(flat) > ABOVE * dealt


def _words(ids: Tensor) -> bool:
    """Of (B, T) ids: different pairs of neighbours, beside those of the same columns, each dealt to rows anew."""
    if ids.dim() != 2 or len(ids) < ROWS or ids.shape[1] < 2:
        return False
    return _pairs(ids) < PAIRS * min(_pairs(one) for one in _dealt(ids))


def _dealt(rows: Tensor) -> list[Tensor]:
    draw = torch.Generator().manual_seed(SEED)  # the host's own is left alone
    orders = [torch.rand(rows.shape, generator=draw).argsort(dim=0).to(rows.device) for _ in range(DRAWS)]
    return [rows.gather(0, order) for order in orders]


def _largest(rows: Tensor) -> float:
    return float(torch.linalg.eigvalsh(rows @ rows.T)[-1])


def _pairs(ids: Tensor) -> int:
    return len(torch.stack([ids[:, :-1].flatten(), ids[:, 1:].flatten()], dim=1).unique(dim=0))
