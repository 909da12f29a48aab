"""M1 of images that are augmented while they are trained on: told by what data sets hold of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, TensorDataset, random_split

import sightline
from sightline.attach.feed import Feed
from sightline.attach.held import Samples
from sightline.attach.onlookers.held_rows import is_of
from sightline.guard.catalogue import load, page

pytestmark = pytest.mark.slow  # many settings of rules that quick tests prove in one


class Shown(Dataset[Tensor]):
    """Somebody's data set: what it is given is kept under any name, and with noise where it is to train on."""

    def __init__(self, *, augment: bool, **kept: Any) -> None:
        self.augment = augment
        self.__dict__.update(kept)

    def __len__(self) -> int:
        return len(self.index if hasattr(self, "index") else self.items)

    def __getitem__(self, place: int) -> Tensor:
        one = self.items[self.index[place] if hasattr(self, "index") else place]
        one = one[0] if isinstance(one, tuple) else one
        return torch.as_tensor(one) + self.augment * 0.3 * torch.randn(3, 8, 8)


def told(
    train: Dataset[Any],
    test: Dataset[Any],
    monkeypatch: pytest.MonkeyPatch,
    *,
    flat: bool = False,
    most: int | None = None,
    stray: bool = True,
) -> bool:
    """Whether M1 is told of three epochs of `train`, each with an evaluation on `test`."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    now: list[Feed | None] = [None]
    monkeypatch.setattr(Feed, "source", staticmethod(lambda: now[0]))

    def batches(loader: DataLoader[Any], epoch: int, order: list[int]) -> Any:
        for place, at in enumerate(range(0, len(order), 10)):
            samples = order[at : at + 10]
            batch = torch.stack([loader.dataset[one] for one in samples])
            now[0] = Feed(loader, epoch, 0.0, place, {}, samples, (batch,))
            yield batch.flatten(1) if flat else batch

    loaders = DataLoader(train), DataLoader(test)
    with sightline.attach(net, optimizer, on_finding=None, checks=load((page("M1"),)), budget=0.02) as guard:
        for epoch in range(3):
            for batch in batches(loaders[0], epoch, torch.randperm(len(loaders[0])).tolist()):
                optimizer.zero_grad()
                net(batch).square().mean().backward()
                optimizer.step()
            net.eval()
            with torch.no_grad():
                for batch in batches(loaders[1], epoch, list(range(len(loaders[1])))):
                    net(batch)
                if stray:
                    net(torch.randn(10, 3, 8, 8).flatten(1) if flat else torch.randn(10, 3, 8, 8))  # of no loader
            net.train()
    return any(finding.code == "M1" for finding in guard.findings)


def items(images: Tensor, places: range) -> list[Any]:
    return [(images[place], place % 2) for place in places]


WAYS: dict[str, Callable[[Tensor, range, bool], Dataset[Any]]] = {
    "a list": lambda images, places, augment: Shown(augment=augment, items=items(images, places)),
    "an array": lambda images, places, augment: Shown(augment=augment, items=images[list(places)].numpy()),
    "places": lambda images, places, augment: Shown(augment=augment, items=images, index=list(places)),
    "a sum": lambda images, places, augment: ConcatDataset(
        [Shown(augment=augment, items=items(images, part)) for part in (places[:20], places[20:])]
    ),
}


@pytest.mark.parametrize("leaks", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_samples_that_are_never_the_same_twice(way: str, leaks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    images = torch.randn(160, 3, 8, 8)
    train, test = range(0 if leaks else 40, 160), range(40)
    assert told(WAYS[way](images, train, True), WAYS[way](images, test, False), monkeypatch) == leaks


def test_what_is_judged_beside_a_loader() -> None:
    """As many rows as a batch of it has: they are no samples of its data set."""
    torch.manual_seed(0)
    batch = {"picture": torch.randn(10, 3, 8, 8), "kind": torch.arange(10)}
    for given in (batch["picture"], batch["picture"].flatten(1), batch["picture"].double()):
        assert is_of(given, (None, batch))
    for other in (torch.randn(10, 3, 8, 8), batch["picture"][:5], batch["picture"] + 1):
        assert not is_of(other, (None, batch))


def test_a_part_that_another_data_set_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    parts = random_split(TensorDataset(torch.randn(160, 3, 8, 8)), [120, 40])
    train, test = (Shown(augment=one is parts[0], items=one) for one in parts)
    assert not told(train, test, monkeypatch)
    seen = [Samples().names(one, list(range(40)), loose=True) for one in (train, test)]
    assert all(names is not None and len(names.unique()) == 40 for names in seen)


def test_what_a_switch_may_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other than pictures: training may have the first half of each series, and the test its second."""
    torch.manual_seed(0)
    series = items(torch.randn(60, 3, 8, 8), range(60))
    assert not told(Shown(augment=True, items=series), Shown(augment=False, items=series[:30]), monkeypatch, flat=True)


def test_a_score_of_the_whole_training_set(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    held = items(torch.randn(120, 3, 8, 8), range(120))
    assert not told(Shown(augment=True, items=held), Shown(augment=False, items=held), monkeypatch)


def test_files_of_two_folders(tmp_path: Path) -> None:
    """Names are the same where folders are."""
    files = [f"{place}.png" for place in range(20)]
    for folder in ("train", "test"):
        (tmp_path / folder).mkdir()
        for name in files:
            (tmp_path / folder / name).touch()
    sets = [Shown(augment=False, items=files, root=str(tmp_path / folder)) for folder in ("train", "test")]
    one, other = (Samples().names(data, [3, 4], loose=True) for data in sets)
    assert one is not None and other is not None and not torch.equal(one, other)
    paths = [[str(tmp_path / "train" / name) for name in part] for part in (files, files[1:])]
    one, other = (
        Samples().names(Shown(augment=False, items=p, root=str(i)), [3 - i], loose=True) for i, p in enumerate(paths)
    )
    assert one is not None and other is not None and torch.equal(one, other)


def test_labels_alone_tell_nothing() -> None:
    assert Samples().names(Shown(augment=False, items=[place % 3 for place in range(60)]), [0, 1], loose=True) is None
    assert Samples().names(iter(()), [0], loose=True) is None


@pytest.mark.parametrize("augment", [True, False])
@pytest.mark.parametrize("case", ["never read", "read", "to be read", "the same samples", "none"])
def test_a_loader_of_others_that_is_never_read(case: str, augment: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is judged is all that is trained on."""
    torch.manual_seed(0)
    images = torch.randn(160, 3, 8, 8)
    train = Shown(augment=augment, items=items(images, range(120)))
    others = range(30) if case == "the same samples" else range(120, 160)
    rest = DataLoader(Shown(augment=False, items=items(images, others)))
    monkeypatch.setattr(Feed, "over", case != "to be read")
    monkeypatch.setattr(Feed, "begun", staticmethod(lambda loader: loader is not rest or case == "read"))
    monkeypatch.setattr("sightline.attach.onlookers.held_rows.living", lambda kind: [] if case == "none" else [rest])
    test = Shown(augment=False, items=items(images, range(120)))
    assert told(train, test, monkeypatch, stray=False) == (case == "never read")
