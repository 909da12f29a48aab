"""Notices what a script saves of the models that it trains: the tensors handed to torch.save and to safetensors.

What is handed over is what can be read back, so no file is opened. A save may come in several files (shards, parts):
all that is saved until the next optimizer step counts as one.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sightline.attach.hook import Hook
from sightline.attach.script.again import print_of
from sightline.attach.script.checkpoints.contents import address, states, tensors
from sightline.attach.script.checkpoints.on_disk import around, run_of, written
from sightline.attach.script.imports import Notice
from sightline.attach.script.watch import Models, Watched
from sightline.guard.evidence import RoundTripSeen
from sightline.guard.probes.call import Call
from sightline.guard.probes.round_trip import forgotten, left_out

SAVERS = ("save_file", "save", "save_model")  # of safetensors.torch


class Saves:
    """Everything that the process saves, since `install`. `fault`: told of errors of our own."""

    def __init__(self, models: Models, fault: Callable[[str], None]) -> None:
        self._models = models
        self._saw = Hook(self._saved, lambda error: fault(f"save: {error!r}"))
        self._inside = False
        self.every: list[Callable[[Any, str], None]] = []  # what is saved, of whatever model, and where
        self.told: list[Callable[[Watched, str, Any], None]] = []  # whose model was saved, where, and with what

    def install(self) -> None:
        """Notice each save from now on."""
        torch.save = torch.serialization.save = self._noticed(torch.save)
        Notice({"safetensors.torch": self._safetensors}).install()

    def _safetensors(self) -> None:
        module = sys.modules["safetensors.torch"]
        for name in SAVERS:
            if hasattr(module, name):
                setattr(module, name, self._noticed(getattr(module, name)))

    def _noticed(self, save: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(save)
        def saved(*args: Any, **kwargs: Any) -> Any:
            outermost, self._inside = not self._inside, True  # save_model calls save_file with a part of the names
            try:
                result = save(*args, **kwargs)
            finally:
                self._inside = not outermost
            if outermost:
                self._saw(*args, *kwargs.values())
            return result

        return saved

    def _saved(self, what: Any, where: Any = None, *_: Any) -> None:
        """Of which models does it hold the values?"""
        path = str(where) if isinstance(where, str | os.PathLike) else ""
        for hear in self.every:
            hear(what, path)
        for one in self._models.live:
            names = {name for state in states(what) for name in _known(state, one.recorder.model)}
            if names:
                _save_of(one).add(names, path)
                for act in self.told:
                    act(one, path, what)
            elif held := _held(what, one.recorder.model):
                _save_of(one).hold(held, path)


class Save:
    """What was saved of one model since its last step. A listener beside its recorder (see `attach/beside.py`)."""

    def __init__(self, one: Watched) -> None:
        self._began = time.time() - 1  # file systems round
        self._one, self._names, self._held, self._path = one, set[str](), set[str](), ""

    def add(self, names: set[str], path: str) -> None:
        """These of the model's names were just saved."""
        self._names |= names
        self._path = path or self._path

    def hold(self, names: set[str], path: str) -> None:
        """The values of these were just saved, under names of the script's own."""
        self._held |= names
        self._path = path or self._path

    def woke(self) -> None:
        """The model changed meanwhile."""
        self.close()

    def begins(self) -> None:
        """Nothing to note."""

    def trained(self, call: Call, output: Any) -> None:
        """Nothing to note."""

    def stepping(self) -> None:
        """The model changes: what was saved until now is one save."""
        self.close()

    def stepped(self) -> None:
        """Nothing to note."""

    def close(self) -> None:
        """Compare the names with the model's."""
        (names, held), self._names, self._held = (self._names, self._held), set(), set()
        recorder = self._one.recorder
        if names:
            recorder.offer(left_out(recorder.model, names, self._path, recorder.step))
        elif held and (lost := forgotten(recorder.model, held)):
            values = [run for name in lost if (run := run_of(recorder.model.get_parameter(name))) is not None]
            if not written(values, around(self._path), self._began):
                recorder.offer(RoundTripSeen(recorder.step, self._path, len(held), lost))


def _held(what: Any, model: nn.Module) -> set[str]:
    """The parameters whose memory, or whose values, are in what is saved."""
    named = dict(model.named_parameters(remove_duplicate=False))
    content, shapes = [*tensors(what)], {p.shape for p in named.values()}
    places = {address(t) for t in content} - {0}
    values = frozenset(filter(None, (print_of(t) for t in content if t.shape in shapes)))
    return {name for name, p in named.items() if address(p) in places or (values and print_of(p) in values)}


def _save_of(one: Watched) -> Save:
    beside = one.recorder.beside
    known = next((listener for listener in beside.all if isinstance(listener, Save)), None)
    if known is None:
        known = Save(one)
        beside.all = (*beside.all, known)
    return known


def _known(tensors: Mapping[str, Tensor], model: nn.Module) -> set[str]:
    """The model's names that are saved, behind one prefix or none; empty where this is something else.

    A dictionary with names that the model does not have may have renamed others too, and proves nothing.
    """
    live = {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
    prefixes = {""} | {o.removesuffix(n) for o in list(tensors)[:1] for n in live if o.endswith("." + n)}
    for prefix in sorted(prefixes, key=len):
        names = {name.removeprefix(prefix) for name in tensors if name.startswith(prefix)}
        if len(names) == len(tensors) and all(n in live and live[n].shape == tensors[prefix + n].shape for n in names):
            return names
    return set()
