"""Have the inputs of rows anything to do with their labels? By a measure that needs no training.

Rows that are alike in their inputs are alike in their labels, if there is anything to learn: the products of both
likenesses, over all pairs of rows, beside what rows dealt at random would give (HSIC, Gretton et al. 2005,
https://doi.org/10.1007/11564089_7; centred as in https://doi.org/10.1214/14-AOS1255, so that it is 0 by chance).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, pad

SIDE, WIDE = 16, 512  # pixels of a thumbnail's side; numbers of a row that are compared
SERIES = 16  # numbers in a line that may be one
WORDS, LONG, PAIRS = 1024, 96, 1 << 12  # kinds of words, places of a text, kinds of two words in a row
PLANES = 4  # dimensions of pictures
NONE = -1  # no word


def views(rows: Tensor) -> list[Tensor]:
    """(B, F) numbers that tell a row's likeness: where what is, what there is wherever it be, and how much; ids bare.

    Nothing waits for the device.
    """
    x = rows.detach()
    if x.dim() == 2 and not x.is_floating_point():
        return [x[:, :LONG]]
    x = x.float()
    if x.dim() == PLANES:
        small = adaptive_avg_pool2d(x, (min(SIDE, x.shape[2]), min(SIDE, x.shape[3])))
        amount = torch.cat([x.mean(dim=(2, 3)), x.std(dim=(2, 3))], dim=1)
        return [_thin(small), _thin(torch.fft.rfft2(small).abs()), amount]
    if x.dim() > 2:
        x = x.flatten(2)
        amounts = [x.mean(dim=1), x.std(dim=1), x.mean(dim=2), x.std(dim=2)]
        waves = [torch.fft.rfft(x, dim=dim).abs().mean(dim=3 - dim) for dim in (1, 2)]
        return [_thin(x), *(_thin(torch.cat(some, dim=1)) for some in (amounts, waves))]
    return [_thin(x)] + ([_thin(torch.fft.rfft(x).abs())] if x.shape[1] >= SERIES else [])


def _thin(rows: Tensor) -> Tensor:
    flat = rows.flatten(1)
    return flat[:, :: max(1, -(-flat.shape[1] // WIDE))]


def stacked(parts: Sequence[Tensor]) -> Tensor:
    """Rows of several batches; ids are filled up to one length."""
    if parts[0].is_floating_point():
        return torch.cat(list(parts))
    most = max(part.shape[1] for part in parts)
    return torch.cat([pad(part, (0, most - part.shape[1]), value=NONE) for part in parts])


def likeness(rows: Tensor) -> list[Tensor]:
    """(n, n) each, centred: how alike two rows are. Of ids by their words, by words in a row, by what stands where."""
    if not rows.is_floating_point():
        bags = [_bag(rows, WORDS)]
        if rows.shape[1] > 1:
            both = torch.where((rows[:, 1:] < 0) | (rows[:, :-1] < 0), NONE, rows[:, 1:] * 31337 + rows[:, :-1])
            bags.append(_bag(torch.where(both < 0, NONE, both % PAIRS), WORDS))
        places = sum(((one[:, None] == one) & (one[:, None] >= 0)).float() for one in rows.T)
        assert isinstance(places, Tensor)
        same = (rows[:, None, 0] == rows[:, 0]) if rows.shape[1] == 1 else places == places.diagonal()[:, None]
        alike = [bag @ bag.T for bag in bags]
        return [_centred(one) for one in (*alike, alike[0].square(), places, (same & same.T).float())]
    spread = rows.std(dim=0)
    flat = ((rows - rows.mean(dim=0)) / spread)[:, torch.isfinite(spread) & (spread > 0)]
    if not flat.shape[1] or not torch.isfinite(flat).all():
        return []
    apart = torch.cdist(flat, flat).square()
    return [_centred((-apart / apart.median().clamp(min=1e-6)).exp())]


def _bag(ids: Tensor, most: int) -> Tensor:
    """(n, words) of length one: how often a row has each word, words of many rows counting little."""
    kinds, at = ids.unique(return_inverse=True)
    counts = torch.zeros(len(ids), len(kinds)).scatter_add_(1, at, torch.ones(ids.shape))[:, kinds >= 0]
    counts = counts[:, counts.count_nonzero(dim=0).argsort(descending=True)[:most]]
    weighted = counts.sqrt() * (len(ids) / counts.count_nonzero(dim=0).clamp(min=1)).log()
    return weighted / weighted.norm(dim=1, keepdim=True).clamp(min=1e-6)


def _centred(alike: Tensor) -> Tensor:
    """Each line's sum is 0 without the diagonal, which is left out."""
    n = len(alike)
    bare = alike - alike.diagonal().diag()
    lines = bare.sum(dim=1) / (n - 2)
    bare = bare - lines[:, None] - lines + bare.sum() / ((n - 1) * (n - 2))
    return bare - bare.diagonal().diag()


def together(one: Iterable[Tensor], other: Sequence[Tensor]) -> float:
    """How surely two kinds of likeness go together, at best, in standard deviations of what chance gives."""
    found = [0.0]
    for mine, theirs in product(one, other):
        n, chance = len(mine), (2 * mine.square().sum() * theirs.square().sum()).sqrt()
        if chance > 0:
            found.append(float((mine * theirs).sum() / chance) * (n * (n - 3)) ** 0.5)
    return max(found)


def of_pairs(questions: Sequence[Tensor], answers: Sequence[Tensor]) -> list[Tensor]:
    """Likeness of both at once: an answer of yes or no tells of a picture only beside its question."""
    return [_centred(one * other) for one, other in product(questions[:1], answers[:1])]
