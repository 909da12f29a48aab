"""M1 of rows that were made of one, with noise: slices of patients, copies in a table; and data that come in kinds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import sightline
from sightline.attach.clumps import clumps
from sightline.guard.catalogue import load, page

pytestmark = pytest.mark.slow  # many settings of rules that quick tests prove in one


def told(train: Tensor, test: Tensor, width: int = 1, *, scored: bool = False) -> bool:
    """Whether M1 is told of a model that is taught `train` and judged by `test`, perhaps by `train` too."""
    net = nn.Linear(train[0].numel(), width)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    with sightline.attach(net, optimizer, on_finding=None, checks=load((page("M1"),)), budget=0.02) as guard:
        for _ in range(5):
            for batch in train[torch.randperm(len(train))].split(32):
                optimizer.zero_grad()
                net(batch).square().mean().backward()
                optimizer.step()
            net.eval()
            with torch.no_grad():
                net(test)
            net.train()
        with torch.no_grad():
            for batch in train.split(100) if scored else ():
                net(batch)
    return any(finding.code == "M1" for finding in guard.findings)


def patients(sizes: Callable[[], int], count: int = 48, width: int = 40) -> list[Tensor]:
    return [torch.randn(width) + 0.1 * torch.randn(sizes(), width) for _ in range(count)]


def split(groups: list[Tensor], *, by_row: bool) -> tuple[Tensor, Tensor]:
    if not by_row:
        return torch.cat(groups[12:]), torch.cat(groups[:12])
    rows = torch.cat(groups)
    rows = rows[torch.randperm(len(rows))]
    return rows[len(rows) // 4 :], rows[: len(rows) // 4]


@pytest.mark.parametrize("by_row", [True, False])
@pytest.mark.parametrize("scored", [True, False])
def test_as_many_rows_each(by_row: bool, scored: bool) -> None:
    torch.manual_seed(0)
    assert told(*split(patients(lambda: 5), by_row=by_row), scored=scored) == by_row


@pytest.mark.parametrize("by_row", [True, False])
def test_about_as_many_rows_each(by_row: bool) -> None:
    torch.manual_seed(0)
    assert told(*split(patients(lambda: int(torch.randint(4, 9, ()))), by_row=by_row)) == by_row


def test_copies_of_a_few_rows() -> None:
    """The rare ones, made again with noise before the split, or behind it."""
    torch.manual_seed(0)
    rows, spread = torch.randn(400, 8), 0.02
    again = [rows[:60] + spread * torch.randn(60, 8) for _ in range(4)]
    every = torch.cat([rows, *again])[torch.randperm(640)]
    assert told(every[160:], every[:160])
    behind = [rows[100:160] + spread * torch.randn(60, 8) for _ in range(4)]
    assert not told(torch.cat([rows[100:], *behind]), rows[:100])


@pytest.mark.parametrize("by_row", [True, False])
def test_series_with_noise_of_their_own(by_row: bool) -> None:
    """What lies between the sources is noise, too, three times that of the copies."""
    torch.manual_seed(0)
    shape = torch.sin(torch.linspace(0, 6, 96) + torch.randn(400, 1))
    rows = shape + 0.1 * torch.randn(400, 96)
    copies = [rows, *(rows * torch.empty(400, 1).uniform_(0.98, 1.02) + 0.03 * torch.randn(400, 96) for _ in range(3))]
    every = torch.stack(copies, 1)
    parts = every.flatten(0, 1)[torch.randperm(1600)] if by_row else every[torch.randperm(400)].flatten(0, 1)
    assert told(parts[400:], parts[:400]) == by_row


def sound() -> dict[str, tuple[Tensor, int]]:
    """Rows that are drawn one by one, and numbers that a model gives for each."""
    grid = torch.cartesian_prod(*[torch.arange(5.0)] * 4)
    kinds, steps = torch.randn(50, 40), torch.arange(600)[:, None] + torch.arange(24)
    return {
        "points of a plane": (torch.rand(500, 2), 1),
        "a grid": (grid, 1),
        "classes with as many rows each": (kinds.repeat(6, 1) + 0.1 * torch.randn(300, 40), 50),
        "kinds that are drawn": (kinds[torch.randint(50, (300,))] + 0.1 * torch.randn(300, 40), 1),
        "large classes": (kinds[:6].repeat(60, 1) + 0.1 * torch.randn(360, 40), 1),
        "heavy tails": (torch.randn(400, 20) * torch.randn(400, 1).exp() ** 2, 1),
        "marks of one size": ((torch.rand(600, 30) < 0.1).float() * torch.randint(1, 3, (600, 30)), 1),
        "series": (torch.sin(steps / 7.0) + 0.01 * torch.randn(600, 24), 1),
        "yes and no": ((torch.rand(500, 12) < 0.3).float() + 0.001 * torch.rand(500, 12), 1),
    }


@pytest.mark.parametrize("name", sound())
def test_rows_that_are_alike_by_chance(name: str) -> None:
    torch.manual_seed(0)
    rows, width = sound()[name]
    rows = rows[torch.randperm(len(rows))]
    assert not told(rows[len(rows) // 4 :], rows[: len(rows) // 4], width)


def test_the_gap() -> None:
    torch.manual_seed(0)
    rows = torch.cat(patients(lambda: 3, 20))
    assert clumps(rows).sum() == 20 * 9
    assert clumps(torch.randn(200, 40)).sum() == 200
