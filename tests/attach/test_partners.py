"""Rows whose inputs, or labels, were shifted or put in another order alone, once and for all."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from sightline.attach import partners
from sightline.attach.partners import Table, mispaired
from sightline.attach.prints import hashes_of, part_hashes
from sightline.attach.script import drawn
from sightline.guard.check import Finding
from sightline.guard.checks.data.inputs_and_labels_misaligned import find
from sightline.guard.evidence import Fed
from sightline.guard.probes.call import Call

COUNT = 600
Pair = tuple[Tensor, Tensor]


@pytest.fixture(autouse=True)
def noted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Orders are noted, as `sightline run` does."""
    for owner, name in ((torch, "randperm"), (random, "shuffle"), (numpy.random, "shuffle")):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    monkeypatch.setattr(numpy.random, "permutation", numpy.random.permutation)
    monkeypatch.setattr(partners, "DRAWN", [])
    monkeypatch.setattr(drawn, "DRAWN", partners.DRAWN)
    drawn.install()
    torch.manual_seed(0)
    numpy.random.seed(0)
    yield


def vectors() -> Pair:
    labels = torch.randint(0, 4, (COUNT,))
    return torch.randn(4, 20)[labels] + 0.8 * torch.randn(COUNT, 20), labels


def pictures() -> Pair:
    labels = torch.randint(0, 3, (COUNT,))
    images = 0.5 * torch.randn(COUNT, 1, 12, 12)
    for row, label in enumerate(labels.tolist()):
        images[row, 0, 4 * label : 4 * label + 4] += 1
    return images, labels


def texts() -> Pair:
    labels = torch.randint(0, 3, (COUNT,))
    return torch.randint(0, 8, (COUNT, 12)) + 10 * labels[:, None] * (torch.rand(COUNT, 12) < 0.4), labels


def by_torch(x: Tensor, y: Tensor) -> Pair:
    return x[torch.randperm(COUNT)], y


def labels_by_torch(x: Tensor, y: Tensor) -> Pair:
    return x, y[torch.randperm(COUNT)]


def by_numpy(x: Tensor, y: Tensor) -> Pair:
    return x[numpy.random.permutation(COUNT)], y


def in_place(x: Tensor, y: Tensor) -> Pair:
    rows = x.numpy()
    numpy.random.shuffle(rows)
    return torch.from_numpy(rows), y


def as_list(x: Tensor, y: Tensor) -> Pair:
    rows = list(x)
    random.shuffle(rows)
    return torch.stack(rows), y


def rolled(x: Tensor, y: Tensor) -> Pair:
    return x, y.roll(1)


def header_kept(x: Tensor, y: Tensor) -> Pair:
    return x[:-1], torch.cat([y[:1], y[:-2]])


def right(x: Tensor, y: Tensor) -> Pair:
    order = torch.randperm(COUNT)
    return x[order], y[order]


class Series(Dataset[Pair]):
    """Some longer than others, and whose labels are another's."""

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, place: int) -> Pair:
        return torch.full((2 + place % 3, 8), float(place)), torch.tensor(place % 5)


def test_series_of_several_lengths_are_not_compared() -> None:
    assert mispaired(DataLoader(Series(), 1, shuffle=True), 3) is None


def seen_of(x: Tensor, y: Tensor) -> Finding | None:
    seen = mispaired(DataLoader(TensorDataset(x, y), 16, shuffle=True), 3)
    verdict = find(filed=seen)
    return verdict if isinstance(verdict, Finding) else None


@pytest.mark.parametrize(
    ("make", "way"),
    [
        (vectors, by_torch),
        (texts, labels_by_torch),
        (vectors, by_numpy),
        (pictures, in_place),
        (vectors, as_list),
        (texts, rolled),
        (pictures, header_kept),
        (pictures, right),
    ],
)
def test_one_side_alone(make: Callable[[], Pair], way: Callable[[Tensor, Tensor], Pair]) -> None:
    x, y = way(*make())
    train = slice(0, 500)
    assert (seen_of(x[train], y[train]) is not None) == (way is not right)


def test_labels_that_nothing_tells() -> None:
    """A product, of which no single number tells."""
    x = torch.randn(COUNT, 2)[torch.randperm(COUNT)]
    assert seen_of(x, (x[:, 0] * x[:, 1] > 0).long()) is None


def test_series() -> None:
    """The next move of a random walk is told by nothing, and that of the row before stands in this one."""
    moves = torch.randn(COUNT * 8 + 9)
    for stride in (1, 8):
        rows = torch.stack([moves[at * stride : at * stride + 8] for at in range(COUNT)])
        nexts = torch.stack([moves[at * stride + 8] for at in range(COUNT)])
        assert seen_of(rows, (nexts > 0).long()) is None


def test_open_files_are_left_alone(tmp_path: Path) -> None:
    class Rows(Dataset[Any]):
        def __init__(self) -> None:
            self.pairs = list(zip(*rolled(*vectors()), strict=True))
            self.file: Any = None

        def __len__(self) -> int:
            return len(self.pairs)

        def __getitem__(self, place: int) -> Any:
            return self.pairs[place]

    rows = Rows()
    assert mispaired(DataLoader(rows, 16), 0) is not None
    with (tmp_path / "rows").open("w") as rows.file:
        assert mispaired(DataLoader(rows, 16), 0) is None


@pytest.mark.parametrize(("way", "wrong"), [(by_torch, True), (rolled, True), (right, False)])
def test_batches_cut_by_hand(way: Callable[[Tensor, Tensor], Pair], wrong: bool) -> None:
    """No loader tells of the rows: a tensor whose rows the batches are is found."""
    x, y = way(*vectors())
    table = Table.of(part_hashes(Call(torch.nn.Identity(), (x[10:26],), {})))
    assert table is not None
    fed = [Fed(at, tuple(hashes_of(x[rows]).tolist()), tuple(y[rows].tolist())) for at, rows in batches()]
    seen = table.seen(fed, 3)
    assert isinstance(find(filed=seen), Finding) == wrong


def batches() -> list[tuple[int, slice]]:
    return [(at, slice(at * 16, at * 16 + 16)) for at in range(30)]
