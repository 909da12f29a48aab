"""Networks that are others by name, and hold the very weights that an optimizer moves.

A copy that is none (`load_state_dict(..., assign=True)` of another's state, a module put together from another's
tensors) follows every step of the original. Of that alone nothing is said, for some make a view to evaluate by. Its
passes without gradients count as the original's, and the judge of references does the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any
from weakref import WeakSet

import torch
from torch import nn

from sightline.attach.hook import Hook
from sightline.attach.onlookers.own_reference import OwnReference
from sightline.attach.script.heap import outermost
from sightline.attach.script.watch import Models, Watched
from sightline.guard.probes.call import Call

MOST = 4  # networks listened to


class Aliases:
    """Listens to them, from the making of an optimizer of the original on. `fault`: told of errors of our own."""

    def __init__(self, models: Models, fault: Callable[[str], None]) -> None:
        self._models, self._known = models, WeakSet[nn.Module]()
        self._hook = Hook(self._asked, lambda error: fault(f"alias: {type(error).__name__}: {error}"))

    def look(self, alive: Sequence[nn.Module], wanted: Collection[int]) -> None:
        """An optimizer was made that is to move `wanted` (ids); these are the modules that there are."""
        own = (p for module in alive for p in module.__dict__["_parameters"].values() if id(p) in wanted)
        moved = {p.data_ptr() for p in own if p.numel()}
        for module in outermost(alive):
            parameters = list(module.parameters())
            if len(self._known) >= MOST or module in self._known or any(id(p) in wanted for p in parameters):
                continue
            if any(p.numel() and p.data_ptr() in moved for p in parameters):
                self._known.add(module)
                module.register_forward_hook(self._hook, with_kwargs=True)

    def _asked(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if torch.is_grad_enabled():
            return
        held = {p.data_ptr() for p in module.parameters()}
        for watched in self._models.live:
            if watched.attachment is not None and not watched.recorder.muted and _moves(watched, held):
                for onlooker in watched.recorder.onlookers.all:
                    if isinstance(onlooker, OwnReference):
                        onlooker.forward(Call(module, args, kwargs), output, training=False, measured=False)


def _moves(watched: Watched, held: Collection[int]) -> bool:
    return any(p.requires_grad and p.data_ptr() in held for p in watched.recorder.model.parameters())
