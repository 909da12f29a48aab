"""The files that the samples of a data set are of: a list that it keeps, or what was opened to make it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from torch.utils.data import DataLoader, Subset

from sightline.guard.evidence import FiledSeen
from sightline.guard.probes.filed import filed, same_picture

LEAST, MOST = 64, 1 << 16  # samples
FILE = re.compile(r".*\d.*\.\w{2,5}")  # a number, and an ending
Order = dict[int, int]  # sample -> the one at whose place its file stands in another order of the files
OPENED: list[str] = []  # the images that were opened in this process, where somebody notes them


def misfiled(loader: DataLoader[Any], step: int) -> FiledSeen | None:
    """Whether the images of a loader's data set go together with labels in another order of their files."""
    dataset = loader.dataset
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        return None
    lists = kept(dataset)
    names = lists[0] if lists else same_picture(loader, dataset, opened(len(dataset)))
    found = [*partners(lists), *orders(names)] if names else []
    return filed(loader, dataset, names, found, step) if names and found else None


def kept(dataset: Any) -> list[list[str]]:
    """The files of all samples, by each list that the data set keeps: of images, of masks, or of both in pairs."""
    count = len(dataset)
    own = getattr(dataset, "__dict__", {}).values() if LEAST <= count <= MOST else ()
    found = list[list[str]]()
    for value in own:
        if isinstance(value, list | tuple) and len(value) == count and _paths(value[0]):
            found += [list(names) for names in zip(*map(_paths, value), strict=False)]
    return [names for names in found if all(names) and len(set(names)) == count]


def partners(lists: Sequence[Sequence[str]]) -> list[tuple[str, Order]]:
    """What labels that are files themselves would be taken for, if each was that of the number in an image's name."""
    found, own = list[tuple[str, Order]](), _numbers(lists[0]) if lists else []
    for names in lists[1:]:
        at = {number: place for place, number in enumerate(_numbers(names))}
        if len(at) == len(own) and at.keys() == set(own):
            order = {place: at[number] for place, number in enumerate(own) if at[number] != place}
            if len(order) >= LEAST:
                found.append(("partners", order))
    return found


def _numbers(names: Sequence[str]) -> list[tuple[int, ...]]:
    """What numbers each name has, of those in which the names differ; () where they have not the same count of them."""
    every = [tuple(map(int, re.findall(r"\d+", PurePath(name).stem))) for name in names]
    if len({len(numbers) for numbers in every}) != 1:
        return [()] * len(names)
    columns = [column for column in zip(*every, strict=True) if len(set(column)) > 1]
    return list(zip(*columns, strict=True)) if columns else [()] * len(names)


def opened(count: int) -> Iterator[list[str]]:
    """Each run of so many different files that were opened one after the other, and may be in disorder."""
    if not LEAST <= count <= min(MOST, len(OPENED)) or not orders(OPENED[-count:]):
        return
    for start in range(len(OPENED) - count, -1, -1):  # the last ones first
        if len(set(names := OPENED[start : start + count])) == count:
            yield names


def orders(names: Sequence[str]) -> list[tuple[str, Order]]:
    """What labels in another order would have been taken for: each by its name.

    Labels may stand in the order of the numbers in the names, or of the names as texts, and the files, as they were
    read, in the other one, or as the folder listed them.
    """
    every = _folder(names)
    texts, numbers = sorted(every), sorted(every, key=_by_number)
    own, found = list(names), list[tuple[str, Order]]()
    for what, taken, right in (
        ("numbers", texts, numbers),
        ("numbers", own, sorted(own, key=_by_number)),
        ("texts", own, sorted(own)),
    ):
        order = _order(names, taken, right)
        if len(order) >= LEAST and all(order != other for _, other in found):
            found.append((what, order))
    return found


def _order(names: Sequence[str], taken: Sequence[str], right: Sequence[str]) -> Order:
    """Sample -> the sample whose file stands, among those `taken`, at the place of its own among the `right` ones."""
    sample = {name: place for place, name in enumerate(names)}
    at = {name: place for place, name in enumerate(right)}
    others = ((place, sample.get(taken[at[name]])) for place, name in enumerate(names))
    return {place: other for place, other in others if other is not None and other != place}


def _folder(names: Sequence[str]) -> list[str]:
    """All files of the names' folder that end alike; the names themselves where they are in several, or in none."""
    folder, _, end = os.path.dirname(names[0]), *os.path.splitext(names[0])
    try:
        found = {os.path.join(folder, name) for name in os.listdir(folder or ".") if name.endswith(end)}
    except OSError:
        return list(names)
    return list(found) if len(found) <= MOST and found.issuperset(names) else list(names)


def _by_number(name: str) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", os.path.splitext(name)[0])
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _paths(one: Any) -> list[str]:
    """The paths in an entry of a list."""
    if isinstance(one, str | PurePath):
        name = os.fspath(one)
        return [name] if FILE.fullmatch(name) else []
    if isinstance(one, Mapping):
        one = tuple(one.values())
    parts = one if isinstance(one, tuple | list) and len(one) <= 16 else ()
    return [path for part in parts for path in _paths(part)]
