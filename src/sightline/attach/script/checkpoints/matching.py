"""A state that was filtered down to what the model knows by name, and of which nothing is left.

`own.update({k: v for k, v in state.items() if k in own})`, and the model is given what it has: no strict load minds
that. So is an empty state, without strictness. Where the file's names are the model's own but for a prefix, it was to
come.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sightline.attach.hook import Hook
from sightline.attach.script.again import Print, few, print_of
from sightline.attach.script.checkpoints.contents import address, states
from sightline.attach.script.checkpoints.reloads import watch_use
from sightline.attach.script.watch import Models
from sightline.guard.evidence.answers import Prefix

FEWEST, MOST = 4, 20_000  # tensors by which a state is known to be of a model: more are data
LOOKS, ENOUGH = 16, 2  # matrices of a file that are looked at, and how many must tell


@dataclass(frozen=True, slots=True)
class File:
    """The largest state in what was read: each name with its shape, and a few numbers of some matrices.

    `at`: the steps of all models by then.
    """

    path: str
    shapes: Mapping[str, tuple[int, ...]]
    prints: Mapping[str, Print]
    at: tuple[int, ...]

    @property
    def key(self) -> int:
        """What it is known again by."""
        return hash(frozenset(self.prints.values()))


class Matching:
    """Follows the last file that was read until the next step."""

    def __init__(self, models: Models, hook: Callable[..., Hook]) -> None:
        self._models, self._hook = models, hook
        self._file: File | None = None
        self._brought: set[int] = set()  # files of which something came to some module

    def came(self, path: str, content: Any) -> None:
        """torch.load read this."""
        found = max(states(content), key=len, default={}) if isinstance(content, Mapping) else {}
        if not FEWEST <= len(found) <= MOST:
            return
        matrices = [name for name, value in found.items() if value.dim() > 1]
        prints = {name: print_of(found[name]) for name in matrices[:: 1 + len(matrices) // LOOKS]}
        telling = {name: one for name, one in prints.items() if one is not None and len(set(one[1])) > 1}
        if len(telling) >= ENOUGH:
            shapes = {name: tuple(value.shape) for name, value in found.items()}
            self._file = File(path, shapes, telling, self._steps())

    def given(self, module: nn.Module, state: Mapping[str, Any]) -> None:
        """`module` was given `state`: is it all that it had, where the file was meant?"""
        file = self._file
        if file is None or file.at != self._steps():
            self._file = None
            return
        if not _nothing(module, state):
            if any(isinstance(value, Tensor) and print_of(value) in file.prints.values() for value in state.values()):
                self._brought.add(file.key)
            return
        own = dict(module.named_parameters(remove_duplicate=False))
        prefix = _prefix(tuple(own), file.shapes)
        if prefix is None or len(own) < FEWEST or 2 * len(own) <= len(file.shapes):
            return  # a part of more may be another part
        there = {name: prefix.other(name) for name in own}
        looks = {name: file.prints[other] for name, other in there.items() if other in file.prints}
        fits = all(tuple(own[name].shape) == file.shapes.get(other) for name, other in there.items())
        if fits and len(looks) >= ENOUGH and not any(_is(own[name], one) for name, one in looks.items()):
            sure = functools.partial(self._nowhere, file.key)
            watch_use(module, tuple(own), tuple(there.values()), file.path, self._models, self._hook, sure)

    def _nowhere(self, key: int) -> bool:
        """Whether nothing of a file came to any module: else it went where it was to go."""
        return key not in self._brought

    def _steps(self) -> tuple[int, ...]:
        return tuple(one.recorder.step for one in self._models.live)


def _prefix(own: Sequence[str], there: Mapping[str, Any]) -> Prefix | None:
    """What every name in the file has before one of our own, or each of our own before one of the file's."""
    for other, first in ((other, first) for first in own[:1] for other in there):
        longer, shorter = other.removesuffix(first), first.removesuffix(other)
        for text, prefix in ((longer, Prefix(longer, longer=True)), (shorter, Prefix(shorter, longer=False))):
            if text not in ("", other, first) and all(prefix.other(n) in there and n not in there for n in own):
                return prefix
    return None


def _nothing(module: nn.Module, state: Mapping[str, Any]) -> bool:
    """Whether there is nothing in `state` but what the module has, in its own memory."""
    mine = {address(tensor) for tensors in (module.parameters(), module.buffers()) for tensor in tensors} - {0}
    return all(isinstance(v, Tensor) and (address(v) in mine or not v.numel()) for v in state.values())


def _is(live: Tensor, known: Print) -> bool:
    """Whether the module has this value already, in whatever dtype."""
    return torch.equal(few(live).cpu(), torch.tensor(known[1], dtype=torch.float64).to(live.dtype))
