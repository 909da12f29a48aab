"""What an adapter's file leaves out of what was trained beside the adapter, and no other file of the run holds.

A library that saves an adapter alone knows of what it was told to train. Told at the end, by values: whatever was ever
saved with the numbers that a parameter had then is somewhere, under whatever name and in whatever file (of its own
module, of a merged model, of an earlier stage).
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sightline.attach.hook import Hook
from sightline.attach.origins import ORIGINS
from sightline.attach.script.again import Print, print_of
from sightline.attach.script.checkpoints.contents import address, states, tensors
from sightline.attach.script.checkpoints.on_disk import around, run_of, written
from sightline.attach.script.watch import Models, Watched
from sightline.guard.evidence import RoundTripSeen

NEAR = 0.01  # relative: a file in half precision has rounded values
RUNS = 256  # of values that are kept
MOST = 0.5  # of a file's names: it is an adapter's, which may hold other things that the adapter was told to train


@dataclass(frozen=True, slots=True)
class Adapter:
    """The last save of an adapter. `beside`: what else its model had learned by then; `runs`: some values of
    these, at this save and those before."""

    path: str
    folder: Path
    step: int
    names: int
    beside: tuple[tuple[str, weakref.ref[Tensor]], ...]
    runs: tuple[Tensor, ...]


class Unsaved:
    """Follows what is saved, of whatever model. `fault`: told of errors of our own."""

    def __init__(self, models: Models, fault: Callable[[str], None]) -> None:
        self._models, self._began = models, time.time() - 1  # file systems round
        self._saved: dict[int, weakref.ref[Tensor]] = {}
        self._adapters: weakref.WeakKeyDictionary[Watched, Adapter] = weakref.WeakKeyDictionary()
        self.saved = Hook(self._came, lambda error: fault(f"adapter: {type(error).__name__}: {error}"))
        models.ending.append(Hook(self._ending, lambda error: fault(f"adapter: {type(error).__name__}: {error}")))

    def _came(self, what: Any, path: str) -> None:
        live = [one for one in self._models.live if one.recorder.step]
        if not live:
            return
        self._note([p for one in live for p in one.recorder.model.parameters()], [*tensors(what)])
        for one in live:
            for module in adapted(one.recorder.model):
                names = adapter_names(module)
                if any(_is_of(state, names) for state in states(what)):
                    learned = [(n, p) for n, p in module.named_parameters() if n not in names and ORIGINS.moved(p)]
                    beside: list[tuple[str, weakref.ref[Tensor]]] = [(n, weakref.ref(p)) for n, p in learned]
                    before = self._adapters[one].runs if one in self._adapters else ()
                    runs = (*before, *(run for _, p in learned if (run := run_of(p)) is not None))[-RUNS:]
                    self._adapters[one] = Adapter(
                        path, around(path), one.recorder.step, len(names), tuple(beside), runs
                    )

    def _note(self, parameters: Sequence[Tensor], content: Sequence[Tensor]) -> None:
        """Which of them are in what was saved: their own memory, or their values."""
        own = {address(t) for t in content} - {0}
        found = [p for p in parameters if address(p) in own]
        rest = [p for p in parameters if address(p) not in own and not self._is_saved(p) and ORIGINS.moved(p)]
        shapes = {tuple(p.shape) for p in rest}
        prints = [p for t in content if tuple(t.shape) in shapes and (p := print_of(t)) is not None]
        found += [p for p in rest if (mine := print_of(p)) is not None and any(_near(mine, one) for one in prints)]
        self._saved.update((id(p), weakref.ref(p)) for p in found)

    def _is_saved(self, parameter: Tensor) -> bool:
        known = self._saved.get(id(parameter))
        return known is not None and known() is parameter

    def _ending(self, one: Watched) -> None:
        """Judge the last save of an adapter: what it lacks may have been saved before it, or until the very end."""
        adapter = self._adapters.pop(one, None)
        if adapter is None or one.attachment is None or not self._models.over:
            return
        lost = {n: p for n, ref in adapter.beside if (p := ref()) is not None and not self._is_saved(p)}
        runs = [*adapter.runs, *(run for p in lost.values() if (run := run_of(p)) is not None)] if lost else []
        if lost and not written(runs, adapter.folder, self._began):
            one.attachment.show(RoundTripSeen(adapter.step, adapter.path, adapter.names, tuple(lost)))


def adapted(model: nn.Module) -> Iterator[nn.Module]:
    """The modules of it that hold a model with adapters, as PEFT makes them."""
    for module in model.modules():
        if "base_model" in module.__dict__["_modules"] and isinstance(getattr(module, "peft_config", None), dict):
            yield module


def adapter_names(module: nn.Module) -> dict[str, str]:
    """What belongs to an adapter: name of the module's own -> name in the adapter's file, without the adapter's."""
    known = set(getattr(module, "peft_config", ()))
    parted = ((name, name.split(".")) for name in module.state_dict())
    return {n: ".".join(p for p in parts if p not in known) for n, parts in parted if known.intersection(parts)}


def _is_of(state: Mapping[str, Tensor], names: Mapping[str, str]) -> bool:
    known = {*names, *names.values()}
    return bool(names) and sum(name in known for name in state) > MOST * len(state)


def _near(one: Print, other: Print) -> bool:
    near = all(abs(a - b) <= NEAR * max(abs(a), abs(b)) for a, b in zip(one[1], other[1], strict=False))
    return one[0] == other[0] and near
