"""What a data set holds of each sample, before a transform draws: two data sets may hold the same ones.

Samples are told by what lies at their place in lists, arrays and tensors that the data set keeps, as long as it is. If
it keeps places instead (``self.index``), by what lies there. Names of files in a folder, and whatever else is the same
only where the rest is, count together with the data set's other settings.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset

from sightline.guard.probes.restore import as_bytes

ARRAYS = (Tensor, np.ndarray)
PLAIN = (str, int, float, PurePath)  # settings
LEAST, RICH = 16, 4  # samples; numbers of an array that tell one from others
MOST = 1 << 20  # samples of a data set: of more it takes a while to see what is held
DEEP = 3  # lists in dictionaries in lists


class Held:
    """The samples of one data set. `loose`: its switches and words do not count, for they only say how to show it."""

    def __init__(self, data: Any, *, loose: bool) -> None:
        self._data, self._loose = data, loose
        self._columns, self._at = _columns(data)
        every = {name: value for name, value in _kept(data).items() if isinstance(value, PLAIN)}
        numbers = {name: value for name, value in every.items() if type(value) is int}
        self._every, self._numbers = (repr(sorted(part.items())).encode() for part in (every, numbers))

    @property
    def known(self) -> bool:
        """Whether there is anything to tell samples by."""
        return bool(self._columns)

    def name(self, place: int) -> int | None:
        """A number for what is held at `place`; None where it is too little to tell it from others."""
        at = place if self._at is None else int(self._at[place])
        found, told = blake2b(digest_size=8), Told()
        for column in self._columns:
            found.update(_content(column[at], told, DEEP) + b"|")
        if not told.rich:
            return None
        found.update(self._every if told.bare or not self._loose else self._numbers)
        return int.from_bytes(found.digest(), "little", signed=True)


class Told:
    """What was met in a sample: `rich`, something that tells it; `bare`, a name that means little by itself."""

    def __init__(self) -> None:
        self.rich = self.bare = False


def _kept(data: Any) -> dict[str, Any]:
    return dict(getattr(data, "__dict__", {})) if isinstance(data, Dataset) else {}


def _columns(data: Any) -> tuple[list[Any], Any]:
    """What has an entry for each sample, and the places where it lies, if they are kept."""
    if isinstance(data, list | tuple):
        return ([data] if len(data) >= LEAST else []), None
    if not hasattr(data, "__len__") or len(data) > MOST:
        return [], None
    held = [value for value in _kept(data).values() if isinstance(value, (list, tuple, *ARRAYS))]
    held += [value.to_numpy() for value in _kept(data).values() if hasattr(value, "iloc")]
    inside = [value for value in held if isinstance(value, tuple)]
    inside += [tuple(value.values()) for value in _kept(data).values() if isinstance(value, dict)]
    held += [one for values in inside for one in values if isinstance(one, (list, *ARRAYS))]
    held = [value for value in held if not (isinstance(value, ARRAYS) and not value.ndim)]
    count = len(data)
    fitting = [value for value in held if len(value) == count] if count >= LEAST else []
    index = next((value for value in fitting if _are_places(value)), None)
    if index is None:
        return fitting, None
    most = max(int(place) for place in index)
    for value in sorted((one for one in held if one is not index), key=len):
        if len(value) > most:
            return [one for one in held if len(one) == len(value) and one is not index], index
    return [], None


def _are_places(value: Any) -> bool:
    """Whole numbers, each once: labels come again."""
    if isinstance(value, ARRAYS):
        if value.ndim != 1:
            return False
        flat = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
        return flat.dtype.kind in "iu" and len(np.unique(flat)) == len(flat) and bool((flat >= 0).all())
    return all(type(place) is int or isinstance(place, np.integer) for place in value) and len(set(value)) == len(value)


def _content(value: Any, told: Told, deep: int) -> bytes:
    """The bytes of what is held; of an object that nothing is known of, which one it is."""
    if isinstance(value, Tensor):
        told.rich |= value.numel() >= RICH
        return as_bytes(value.detach().cpu()).numpy().tobytes()
    if isinstance(value, np.ndarray):
        told.rich |= value.size >= RICH
        return value.tobytes() if value.dtype.kind != "O" else _content(value.tolist(), told, deep)
    if isinstance(value, str | PurePath):
        own = " " in str(value) or os.path.exists(value)
        told.rich, told.bare = True, told.bare or not own
        return (os.path.abspath(value) if own and " " not in str(value) else str(value)).encode()
    if isinstance(value, bytes):
        told.rich = True
        return value
    if isinstance(value, int | float | bool | np.generic) or value is None:
        return repr(value).encode()
    if isinstance(value, list | tuple) and deep:
        told.rich |= len(value) >= RICH
        return b"[" + b",".join(_content(one, told, deep - 1) for one in value) + b"]"
    if isinstance(value, Mapping) and deep:
        return b",".join(str(key).encode() + b":" + _content(one, told, deep - 1) for key, one in value.items())
    told.rich = True
    return f"{type(value).__name__} at {id(value)}".encode()


class Samples:
    """Those of all data sets that were met, which are kept meanwhile so that no other has their ids."""

    def __init__(self) -> None:
        self._held: dict[tuple[int, bool], Held] = {}
        self._views: dict[int, tuple[Any, Any]] = {}  # a data set, and the one that it shows otherwise

    def names(self, data: Any, places: list[int], *, loose: bool) -> Tensor | None:
        """(B, 1) int64, a name for each of these samples; None where there are none to be told."""
        names = []
        for place in places:
            holder, at = self._origin(data, place, loose=loose)
            if (key := (id(holder), loose)) not in self._held:
                self._held[key] = Held(holder, loose=loose)
            held = self._held[key]
            if (name := held.name(at) if held.known else None) is None:
                return None
            names.append(name)
        return torch.tensor(names)[:, None] if names else None

    def _origin(self, data: Any, place: int, *, loose: bool) -> tuple[Any, int]:
        """The data set that holds a sample, and its place there: parts, sums and views of others hold nothing."""
        while True:
            if type(data) is Subset:
                data, place = data.dataset, int(data.indices[place])
            elif type(data) is ConcatDataset:
                number = bisect_right(data.cumulative_sizes, place)
                data, place = data.datasets[number], place - (data.cumulative_sizes[number - 1] if number else 0)
            elif loose and (shown := self._shown(data)) is not None:
                data = shown
            else:
                return data, place

    def _shown(self, data: Any) -> Any:
        if id(data) not in self._views:
            self._views[id(data)] = data, _shown(data)
        return self._views[id(data)][1]


def _shown(data: Any) -> Any:
    """The one data set that another shows otherwise, sample by sample."""
    inner = [value for value in _kept(data).values() if isinstance(value, Dataset) and hasattr(value, "__len__")]
    fits = len(inner) == 1 and hasattr(data, "__len__") and len(inner[0]) == len(data)
    return inner[0] if fits and not _columns(data)[0] else None
