"""A state that was kept by reference: it changes with the model, so that giving it back brings nothing back.

`model.state_dict()` holds the model's own memory. Whoever keeps it as the best state so far, trains on and loads it at
the end, loads what is there already. So does whoever keeps views of it, or saves them later (see `snapshots.py`), or
keeps the model itself (`aliased.py`).
"""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from sightline.attach.hook import Hook, unwrapped
from sightline.attach.script.checkpoints.aliased import Aliased
from sightline.attach.script.checkpoints.saves import Saves
from sightline.attach.script.checkpoints.snapshots import Snapshots
from sightline.attach.script.watch import Models
from sightline.guard.evidence import RoundTripSeen


class Kept:
    """Follows the tensors of each state from its making to its loading. `fault`: told of errors of our own."""

    def __init__(self, models: Models, saves: Saves, fault: Callable[[str], None]) -> None:
        self._models, self._taken = models, dict[int, tuple[weakref.ref[Tensor], int]]()
        self._snapshots, self._aliased = Snapshots(models, fault), Aliased(models, fault)
        saves.every.append(self._snapshots.saved)
        self._took = Hook(self._made, lambda error: fault(f"state: {error!r}"))
        self._given = Hook(self._loads, lambda error: fault(f"state: {error!r}"))

    def install(self) -> None:
        """Notice each state that is made or loaded from now on."""
        make, load = nn.Module.state_dict, nn.Module.load_state_dict

        @functools.wraps(make)
        def making(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            state = make(module, *args, **kwargs)
            if not args and kwargs.get("destination") is None:  # else a part of its parent's
                self._took(state, module if _asked_by_the_script() else None)
            return state

        @functools.wraps(load)
        def loading(module: nn.Module, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
            self._given(module, state_dict)
            self._aliased.loaded(unwrapped(module)[1], state_dict)
            return load(module, state_dict, *args, **kwargs)

        nn.Module.state_dict = making  # type: ignore[method-assign, assignment]
        nn.Module.load_state_dict = loading  # type: ignore[method-assign, assignment]

    def _made(self, state: Mapping[str, Any], module: nn.Module | None = None) -> None:
        """Note how often each tensor had been written to. `module`: whose, where the script asked."""
        self._taken = {key: told for key, told in self._taken.items() if told[0]() is not None}
        for tensor in state.values():
            if isinstance(tensor, Tensor) and not tensor.is_inference():
                self._taken[id(tensor)] = weakref.ref(tensor), tensor._version
        if module is not None:
            self._snapshots.made(module, state)

    def _loads(self, module: nn.Module, state: Mapping[str, Any]) -> None:
        """Is each parameter that is loaded the module's own memory, and was it written to since it was kept?"""
        mine = dict(module.named_parameters(remove_duplicate=False))
        pairs = [(p, t) for name, p in mine.items() if isinstance(t := state.get(name), Tensor) and p.numel()]
        if not pairs or any(t is p or t.data_ptr() != p.data_ptr() or t.shape != p.shape for p, t in pairs):
            self._snapshots.loads([*state.values()])
            return
        stale = sum(self._written(t) for _, t in pairs)
        inner = {id(p) for p in unwrapped(module)[1].parameters()}
        for one in self._models.live:
            if stale and one.attachment is not None and any(id(p) in inner for p in one.recorder.model.parameters()):
                one.attachment.show(RoundTripSeen(one.recorder.step, "", len(pairs), kept=stale))

    def _written(self, tensor: Tensor) -> bool:
        known, version = self._taken.get(id(tensor), (None, 0))
        if known is not None and known() is tensor:
            return tensor._version > version
        return self._snapshots.written(tensor)


def _asked_by_the_script() -> bool:
    """Whether a call that was made two frames from here is not our own."""
    return not str(sys._getframe(2).f_globals.get("__name__", "")).startswith("sightline.")
