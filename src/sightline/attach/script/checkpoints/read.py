"""What is known of files that were read, to tell what goes on from them: each by itself, or several as one.

A checkpoint may lie in several files: weights here, an optimizer's state there, and how far it had come in a text
beside them or in their names. What is read until the next step is one then.
"""

from __future__ import annotations

import json
import re
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from sightline.attach.script.again import Print
from sightline.attach.script.checkpoints.contents import mappings, prints, states
from sightline.attach.script.checkpoints.makes import optimizer_in

COUNTS = 3  # as deep as a count of steps or epochs is looked for
NAMED = 20_000  # tensors of a file without an optimizer: more are data
MOST = 8  # files of one checkpoint
TEXTS, LARGEST = 8, 1 << 16  # files of counts beside it, and bytes of each
NUMBER = re.compile(r"\d{1,9}(?![A-Za-z0-9])")  # at the end of a word, as in epoch_3 and step20


@dataclass(eq=False)
class Read:
    """What is known of a file that holds more than weights. `numbers`: its counts. `random`: its random states.

    `bare`: optimizers of its weights that began without a state, and of which it holds none, with how many parameters
    they move. `whole`: of those whose state came back, how many they move. `several`: files as one.
    """

    path: str
    prints: frozenset[Print]
    optimizers: tuple[Mapping[str, Any], ...]  # their groups, and which parameters have state
    schedules: tuple[Mapping[str, Any], ...]
    numbers: frozenset[int]
    random: tuple[Tensor, ...]
    drawn: bool = False
    waited: int = 0
    judged: weakref.WeakSet[Optimizer] = field(default_factory=weakref.WeakSet)
    bare: list[tuple[weakref.ref[Optimizer], int]] = field(default_factory=list)
    whole: list[int] = field(default_factory=list)
    several: bool = False


def read_of(path: str, content: Any) -> Read | None:
    """What to know of a file's content: nothing where it holds neither an optimizer's state nor weights and a count."""
    every = list(mappings(content, COUNTS))
    optimizers = tuple(filter(None, map(optimizer_in, every)))
    plain = _plain(every)
    weights = [] if optimizers else list(states(content))
    if not optimizers:  # counts stand beside the weights; deeper there are sizes of a model
        plain = [one for one in plain if any(isinstance(v, Tensor) or next(states(v), None) for v in one.values())]
    numbers = _counts(plain)
    if not optimizers and (not weights or not numbers or sum(map(len, weights)) > NAMED):
        return None
    return Read(
        path=path,
        prints=prints(content if optimizers else weights),
        optimizers=optimizers,
        schedules=_schedules(every),
        numbers=numbers,
        random=_random(plain),
    )


class Pieces:
    """The files that were read since the last step, none of which holds both weights and an optimizer's state.

    `ours`: whether this process wrote a file. Only then are weights alone a checkpoint.
    """

    def __init__(self, ours: Callable[[str], bool]) -> None:
        self._ours = ours
        self._files: list[tuple[Read, bool]] = []  # with whether it has weights

    @property
    def waiting(self) -> bool:
        """Whether a step is to be heard."""
        return bool(self._files)

    def clear(self) -> None:
        """A step is taken: what is read from now on is of another checkpoint."""
        self._files.clear()

    def joined(self, path: str, content: Any) -> Read | None:
        """All of them, with this one; None while that is no checkpoint."""
        piece = _piece(path, content)
        if piece is None or len(self._files) >= MOST:
            return None
        self._files.append(piece)
        files, weights = [read for read, _ in self._files], [read for read, has in self._files if has]
        optimizers = tuple(chain.from_iterable(read.optimizers for read in files))
        numbers = frozenset[int]().union(*(read.numbers for read in files))
        if not weights or not (optimizers or (numbers and self._ours(weights[-1].path))):
            return None
        return Read(
            path=weights[-1].path,
            prints=frozenset[Print]().union(*(read.prints for read in files)),
            optimizers=optimizers,
            schedules=tuple(chain.from_iterable(read.schedules for read in files)),
            numbers=numbers,
            random=tuple(chain.from_iterable(read.random for read in files)),
            several=len(files) > 1,
        )


def _piece(path: str, content: Any) -> tuple[Read, bool] | None:
    every = list(mappings(content, COUNTS))
    plain = _plain(every)
    weights = [v for one in plain for v in one.values() if isinstance(v, Tensor) and v.is_floating_point()]
    optimizers = tuple(filter(None, map(optimizer_in, every)))
    if not every or len(weights) > NAMED or (optimizers and weights):
        return None
    known = prints([one["state"] for one in every if optimizer_in(one)] if optimizers else weights)
    numbers = _counts(plain) | _beside(path)
    return Read(path, known, optimizers, _schedules(every), numbers, _random(plain)), bool(weights)


def _plain(every: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [one for one in every if "param_groups" not in one and "last_epoch" not in one]


def _schedules(every: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    return tuple(dict(one) for one in every if isinstance(one.get("last_epoch"), int))


def _counts(every: Sequence[Mapping[str, Any]]) -> frozenset[int]:
    return frozenset(value for one in every for value in one.values() if type(value) is int and value > 0)


def _random(every: Sequence[Mapping[str, Any]]) -> tuple[Tensor, ...]:
    values = [value for one in every for value in one.values() if isinstance(value, Tensor)]
    return tuple(value.cpu().clone() for value in values if value.dtype == torch.uint8 and value.dim() == 1)


def _beside(path: str) -> frozenset[int]:
    """The numbers in a file's name and its folder's, and in the texts beside it."""
    if not path:
        return frozenset()
    place = Path(path)
    named = [int(digits) for name in (place.parent.name, place.stem) for digits in NUMBER.findall(name)]
    told = [one for text in islice(place.parent.glob("*.json"), TEXTS) for one in _in_text(text)]
    return frozenset(named) | _counts(told)


def _in_text(path: Path) -> Iterator[Mapping[str, Any]]:
    """The dictionaries in a text: all of it, and those in that."""
    with suppress(OSError, ValueError):
        content = json.loads(path.read_bytes()) if path.stat().st_size <= LARGEST else None
        inside = content.values() if isinstance(content, dict) else ()
        yield from (one for one in (content, *inside) if isinstance(one, dict))
