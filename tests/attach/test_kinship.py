"""Whether inputs have anything to do with their labels, by a measure that needs no training."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sightline.attach.kinship import likeness, together, views
from sightline.attach.onlookers.kinship import kin
from sightline.attach.structure import natural_rows
from sightline.guard.evidence.matching import NOTHING

ROWS = 512


def bars(draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pictures of a bar anywhere, and whether it lies or stands."""
    x, y = 0.3 * torch.randn(ROWS, 1, 12, 12, generator=draw), torch.randint(0, 2, (ROWS, 1), generator=draw)
    for one, lies, (row, column) in zip(x, y, torch.randint(0, 7, (ROWS, 2), generator=draw), strict=True):
        one[(0, row, slice(column, column + 5)) if lies else (0, slice(row, row + 5), column)] += 1
    return x, y


def waves(draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Series of two tones, that begin anywhere."""
    y, begin = torch.randint(0, 2, (ROWS, 1), generator=draw), 6 * torch.rand(ROWS, 1, generator=draw)
    return torch.sin(torch.arange(48.0) * (0.3 + 0.2 * y) + begin), y


def table(draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Columns of several kinds, and a number that two of them tell together."""
    x = torch.rand(ROWS, 4, generator=draw)
    x[:, 0] = torch.randint(0, 2, (ROWS,), generator=draw)
    return x, (x[:, 1:2] - 0.5) * (x[:, :1] - 0.5) + 0.05 * torch.randn(ROWS, 1, generator=draw)


def words(draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Texts of common and of rare words, and a class that two rare ones tell."""
    y, x = torch.randint(0, 2, (ROWS, 1), generator=draw), torch.randint(0, 12, (ROWS, 9), generator=draw)
    at = torch.rand(ROWS, 9, generator=draw).argsort(dim=1)[:, :2]
    return x.scatter(1, at, 12 + 5 * y + torch.randint(0, 5, (ROWS, 2), generator=draw)), y


@pytest.mark.parametrize("made", [bars, waves, table, words])
def test_inputs_and_labels(made: object) -> None:
    x, y = made(torch.Generator().manual_seed(0))  # type: ignore[operator]
    told, other = kin([views(x)], [y]), kin([views(x)], [y.roll(7, dims=0)])
    assert told is not None and other is not None
    assert told > 4 * NOTHING and other < NOTHING


@pytest.mark.parametrize("apart", [False, True])
def test_yes_or_no_beside_a_question(apart: bool) -> None:
    """Neither the picture nor the question tells the answer by itself."""
    draw = torch.Generator().manual_seed(0)
    colours, asked = (torch.randint(0, 4, (ROWS,), generator=draw) for _ in range(2))
    asked = torch.where(torch.rand(ROWS, generator=draw) < 0.4, colours, asked)
    x = 0.2 * torch.randn(ROWS, 4, 8, 8, generator=draw)
    x[torch.arange(ROWS), colours] += 1
    x = x.roll(7, dims=0) if apart else x
    for question in (torch.stack([torch.ones_like(asked), 10 + asked], 1), asked[:, None]):
        told = kin([views(x), views(question)], [(colours == asked).long()[:, None]])
        assert told is not None and (told < NOTHING) == apart


def test_noise_is_left_alone() -> None:
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(ROWS, 8, generator=draw), torch.randint(0, 3, (ROWS, 1), generator=draw)
    assert kin([views(x)], [y]) is None and kin([views(x[:, :6].reshape(ROWS, 2, 3))], [y]) is None
    assert kin([views(torch.randint(0, 50, (ROWS, 12), generator=draw))], [y]) is None
    assert kin([views(torch.rand(ROWS, 3, 8, 8, generator=draw))], [y]) is None
    assert not natural_rows(torch.randint(0, 2, (ROWS, 16), generator=draw))
    assert kin([views(bars(draw)[0])], [y * 0]) is None


def test_nothing_is_what_chance_gives() -> None:
    draw = torch.Generator().manual_seed(0)
    x, y = words(draw)
    known = likeness(x)
    by_chance = [together(known, likeness(y[torch.randperm(ROWS, generator=draw)])) for _ in range(40)]
    assert max(by_chance) < NOTHING
