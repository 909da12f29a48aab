"""M1 by the places of samples in a data set: splits that are drawn anew while the weights go on."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, SubsetRandomSampler

import sightline
from sightline.attach.feed import Feed
from sightline.attach.onlookers.same_data import same_data

Loader = DataLoader[tuple[Tensor, Tensor]]


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """Samples that are never the same twice, so that only their places tell them."""

    def __init__(self) -> None:
        self.x = torch.randn(120, 8)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.x[i] + 0.5 * torch.randn(8), (self.x[i, 0] > 0).long()


class Shown(Dataset[tuple[Tensor, Tensor]]):
    """Samples in memory, augmented or as they are."""

    def __init__(self, x: Tensor, *, augment: bool, fold: int = 0) -> None:
        self.x, self.augment, self.fold = x, augment, fold

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.x[i] + 0.5 * torch.randn(8) * self.augment, (self.x[i, 0] > 0).long()


class Lab:
    """A model that is taught and judged by loaders, in stages with an optimizer each."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.data, self.net = Noisy(), nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
        self.first, self.now = copy.deepcopy(self.net.state_dict()), None
        self.guard = sightline.attach(self.net, on_finding=None)

    def part(self, places: range | list[int]) -> Loader:
        return DataLoader(Subset(self.data, list(places)), batch_size=20, shuffle=True)

    def batches(self, loader: Loader) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in loader:
            self.now = loader
            yield batch

    def judge(self, loader: Loader) -> None:
        self.net.eval()
        with torch.no_grad():
            for x, _ in self.batches(loader):
                self.net(x)
        self.net.train()

    def stage(self, train: Loader, *judged: Loader) -> None:
        optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1)
        for _ in range(2):
            for x, y in self.batches(train):
                optimizer.zero_grad()
                nn.functional.cross_entropy(self.net(x), y).backward()
                optimizer.step()
            for loader in judged:
                self.judge(loader)

    def told(self) -> list[str]:
        self.guard.close()
        return [finding.code for finding in self.guard.findings if finding.severity != "note"]


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Lab:
    made = Lab()
    monkeypatch.setattr(Feed, "source", lambda: Feed(made.now, 0, 0.0) if made.now is not None else None)
    return made


def drawn(seed: int) -> list[int]:
    return torch.randperm(120, generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.mark.parametrize(("seeds", "told"), [((1, 2, 3), ["M1"]), ((1, 1, 1), [])])
def test_a_split_for_each_stage(lab: Lab, seeds: tuple[int, ...], told: list[str]) -> None:
    for seed in seeds:
        lab.stage(lab.part(drawn(seed)[:90]), lab.part(drawn(seed)[90:]))
    assert lab.told() == told


@pytest.mark.parametrize(("again", "told"), [(False, ["M1"]), (True, [])])
@pytest.mark.parametrize("before", [False, True])
def test_folds_of_weights_that_go_on_or_are_set_back(lab: Lab, again: bool, before: bool, told: list[str]) -> None:
    """The fault: the model of a fold was taught what the next fold judges it by."""
    parts = [drawn(0)[place::3] for place in range(3)]
    for place in range(3):
        if again:
            lab.net.load_state_dict(lab.first)
        rest = [index for other in range(3) if other != place for index in parts[other]]
        held = [*parts[place], *rest[:2]][: len(parts[place])]
        if before:
            lab.judge(lab.part(held))
        lab.stage(lab.part(rest), lab.part(held))
    assert lab.told() == told


@pytest.mark.parametrize(("until", "told"), [(90, ["M1"]), (80, [])])
def test_parts_that_overlap(lab: Lab, until: int, told: list[str]) -> None:
    order = drawn(4)
    lab.stage(lab.part(order[:until]), lab.part(order[80:]))
    assert lab.told() == told


@pytest.mark.parametrize(("seeds", "told"), [((1, 2), ["M1"]), ((1, 1), [])])
def test_parts_that_samplers_draw(lab: Lab, seeds: tuple[int, ...], told: list[str]) -> None:
    for seed in seeds:
        train, held = (SubsetRandomSampler(part) for part in (drawn(seed)[:90], drawn(seed)[90:]))
        lab.stage(*(DataLoader(lab.data, batch_size=20, sampler=one) for one in (train, held)))
    assert lab.told() == told


@pytest.mark.parametrize(
    ("seed", "other", "fold", "told"),
    [(2, False, 0, ["M1"]), (1, False, 0, []), (2, True, 0, []), (2, False, 1, [])],
    ids=["drawn twice", "one split", "other data", "perhaps other samples"],
)
def test_data_that_are_shown_in_two_ways(lab: Lab, seed: int, other: bool, fold: int, told: list[str]) -> None:
    x = lab.data.x
    train, held = Shown(x, augment=True), Shown(x + 1 if other else x, augment=False, fold=fold)
    lab.stage(
        *(DataLoader(Subset(data, part), batch_size=20) for data, part in zip((train, held), parts(seed), strict=True))
    )
    assert lab.told() == told


def parts(seed: int) -> tuple[list[int], list[int]]:
    """Training's part of one split, and what is held out of another."""
    return drawn(1)[:90], drawn(seed)[90:]


def test_lists_of_files_that_are_equal_are_of_one_folder_only_without_a_switch() -> None:
    class Files:
        def __init__(self, *, train: bool, root: str = "data") -> None:
            self.root, self.train, self.names, self.transform = (
                root,
                train,
                [str(n) for n in range(20)],
                str if train else None,
            )

        def __len__(self) -> int:
            return len(self.names)

    assert same_data(Files(train=True), Files(train=True))
    assert not same_data(Files(train=True), Files(train=False))
    assert not same_data(Files(train=True), Files(train=True, root="test"))


def test_a_pool_from_which_more_and_more_is_taught(lab: Lab) -> None:
    """All that is not held out is scored, and the best of it is taught next."""
    pool, held = drawn(5)[:100], drawn(5)[100:]
    for count in (20, 40, 60):
        lab.stage(lab.part(pool[:count]), lab.part(pool), lab.part(held))
    assert lab.told() == []


def test_a_score_of_some_of_what_is_taught_in_turns(lab: Lab) -> None:
    """Each stage teaches another part of what is not held out; some of it is judged, taught or not yet."""
    taught, held = drawn(6)[:100], drawn(6)[100:]
    for place in range(3):
        lab.stage(lab.part(taught[30 * place : 30 * place + 40]), lab.part(taught[20:70]), lab.part(held))
    assert lab.told() == []
