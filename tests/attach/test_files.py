"""Images of numbered files whose labels stand in another order than the files: told by what images and labels share."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Subset

from sightline.attach import files
from sightline.attach.files import misfiled, orders
from sightline.guard.check import Finding
from sightline.guard.checks.data.inputs_and_labels_misaligned import find

pytestmark = pytest.mark.slow  # many settings of rules that quick tests prove in one

COUNT = 240
COLOURS = {"red": (220, 40, 40), "green": (40, 190, 60), "blue": (50, 60, 220)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, list[str]]]:
    """Numbered pictures of one colour each, with and without leading zeros, and their colours in the numbers' order."""
    made, draw = {}, random.Random(0)
    for kind, name in (("bare", "shot_{}.png"), ("padded", "{:04}.png")):
        folder, told = tmp_path_factory.mktemp(kind), []
        for number in range(COUNT):
            told.append(draw.choice(list(COLOURS)))
            noise = numpy.random.default_rng(number).normal(0, 40, (16, 16, 3))
            Image.fromarray((noise + COLOURS[told[-1]]).clip(0, 255).astype("uint8")).save(folder / name.format(number))
        made[kind] = folder, told
    return made


class Read(Dataset[Any]):
    """Opens each file when it is asked for."""

    def __init__(self, paths: list[Path], labels: list[Any]) -> None:
        self.items = list(zip(paths, labels, strict=True))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, place: int) -> Any:
        path, label = self.items[place]
        return torch.from_numpy(numpy.asarray(Image.open(path)).astype("float32")).permute(2, 0, 1) / 255, label


class Made(Read):
    """Has opened all of them, and keeps no names."""

    def __init__(self, paths: list[Path], labels: list[Any]) -> None:
        super().__init__(paths, labels)
        self.read = [super(Made, self).__getitem__(place) for place in range(len(paths))]
        self.items = []

    def __len__(self) -> int:
        return len(self.read)

    def __getitem__(self, place: int) -> Any:
        return self.read[place]


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Images that are opened are noted, as `sightline run` does."""
    from sightline.attach.script import opened

    monkeypatch.setattr(files, "OPENED", [])
    monkeypatch.setattr(opened, "OPENED", files.OPENED)
    monkeypatch.setattr(Image, "open", opened._noted(Image.open))
    yield


def by_number(path: Path) -> int:
    return int(path.stem.split("_")[-1])


def as_texts(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def as_numbers(folder: Path) -> list[Path]:
    return sorted(folder.iterdir(), key=by_number)


def as_listed(folder: Path) -> list[Path]:
    """A folder's own order is any."""
    return random.Random(7).sample(as_texts(folder), COUNT)


def sentences(colours: list[str]) -> list[str]:
    draw = random.Random(1)
    return [f"a {draw.choice(['small', 'wide'])} field of {one}" for one in colours]


def numbers(colours: list[str]) -> list[int]:
    return [list(COLOURS).index(one) for one in colours]


@pytest.mark.parametrize("kind", [Read, Made])
@pytest.mark.parametrize("label", [sentences, numbers])
@pytest.mark.parametrize(
    ("folder", "order", "wrong"),
    [
        ("bare", as_texts, "numbers"),
        ("bare", as_numbers, ""),
        ("padded", as_texts, ""),
        ("padded", as_listed, "numbers"),
    ],
)
def test_labels_in_the_order_of_the_numbers(
    kind: type[Read], label: Callable[[list[str]], list[Any]], folder: str, order: Callable[[Path], list[Path]],
    wrong: str, folders: dict[str, tuple[Path, list[str]]], noted: None,
) -> None:  # fmt: skip
    place, colours = folders[folder]
    seen = misfiled(DataLoader(kind(order(place), label(colours)), 16), 3)
    verdict = find(filed=seen)
    assert isinstance(verdict, Finding) == bool(wrong)
    if isinstance(verdict, Finding):
        assert (
            seen is not None
            and seen.order == wrong
            and "images do not go together with their labels" in verdict.message
        )


@pytest.mark.parametrize("kind", [Read, Made])
@pytest.mark.parametrize("right", [True, False])
def test_pairs_that_are_shuffled_and_split(
    kind: type[Read], right: bool, folders: dict[str, tuple[Path, list[str]]], noted: None
) -> None:
    place, colours = folders["bare"]
    pairs = list(zip(as_numbers(place) if right else as_texts(place), colours, strict=True))
    random.Random(3).shuffle(pairs)
    paths, labels = map(list, zip(*pairs, strict=True))
    train, _ = (kind(paths[part], labels[part]) for part in (slice(200), slice(200, None)))
    seen = misfiled(DataLoader(Subset(train, range(150)), 16), 3)
    assert seen is not None and seen.misfiled == (not right)


class Scans(Dataset[Any]):
    """Scans and their masks, each a file of its own."""

    def __init__(self, scans: list[Path], masks: list[Path], *, pairs: bool) -> None:
        if pairs:
            self.rows = [{"scan": scan, "mask": str(mask)} for scan, mask in zip(scans, masks, strict=True)]
        else:
            self.scans, self.masks = scans, masks

    def __len__(self) -> int:
        return len(self.rows if hasattr(self, "rows") else self.scans)

    def __getitem__(self, place: int) -> Any:
        one: tuple[Any, ...] = (
            (*self.rows[place].values(),) if hasattr(self, "rows") else (self.scans[place], self.masks[place])
        )
        scan, mask = (torch.from_numpy(numpy.load(file)) for file in one)
        return scan[None], mask.long()


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`scan_7.npy` and `mask_7_v2.npy`: something bright, and where it is."""
    folder = tmp_path_factory.mktemp("masked")
    for number in range(120):
        draw = numpy.random.default_rng(number)
        at = draw.integers(0, 16, 2)
        where = numpy.zeros((24, 24), "uint8")
        where[at[0] : at[0] + 8, at[1] : at[1] + 8] = 1
        numpy.save(folder / f"scan_{number}.npy", (draw.normal(0, 0.3, (24, 24)) + where).astype("float32"))
        numpy.save(folder / f"mask_{number}_v2.npy", where)
    return folder


@pytest.mark.parametrize("pairs", [False, True], ids=["in two lists", "in one"])
@pytest.mark.parametrize("right", [False, True])
def test_masks_in_files_of_their_own(right: bool, pairs: bool, masked: Path) -> None:
    """Texts would sort `mask_10_v2` before `mask_1_v2`, and `scan_1` before `scan_10`: only numbers pair them."""
    scans = sorted(masked.glob("scan*"), key=by_number)
    masks = sorted(masked.glob("mask*"), key=lambda path: int(path.stem.split("_")[1]) if right else path.name)
    seen = misfiled(DataLoader(Scans(scans, masks, pairs=pairs), 16), 3)
    verdict = find(filed=seen)
    assert isinstance(verdict, Finding) == (not right)
    if seen is not None and isinstance(verdict, Finding):
        assert seen.order == "partners" and "of the labels have other numbers" in verdict.message


def test_masks_that_go_with_any_scan(masked: Path) -> None:
    """Styles for contents: pairs are drawn on purpose."""
    scans, masks = (sorted(masked.glob(f"{kind}*")) for kind in ("scan", "mask"))
    other = random.Random(1).choices(masks, k=len(masks))
    seen = misfiled(DataLoader(Scans(scans, other, pairs=False), 16), 3)
    assert seen is None or not seen.misfiled


def test_labels_that_images_do_not_tell(folders: dict[str, tuple[Path, list[str]]]) -> None:
    """Neither order of them is right, as far as the measure goes: nothing is said."""
    place, _ = folders["bare"]
    seen = misfiled(DataLoader(Read(as_texts(place), random.Random(2).choices(range(3), k=COUNT)), 16), 3)
    assert seen is not None and not seen.misfiled


def test_what_has_no_files_or_no_order() -> None:
    assert misfiled(DataLoader([(torch.randn(3, 16, 16), 1)] * 100), 0) is None  # type: ignore[arg-type]
    assert orders([f"{place:04}.png" for place in range(100)]) == []
    (one,) = orders(sorted(f"{place}.png" for place in range(100)))
    assert one[0] == "numbers" and 1 not in one[1] and one[1][2] == 10  # "10.png" stands third among texts
