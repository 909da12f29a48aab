"""Models that a library's callback watches while nobody calls them as a whole: a loss of methods, or of parts.

A `compute_loss` that asks `model.embed(...)` twice, or calls the two towers of a model itself: the callback hears
steps, and no forward pass. After the first such step the calls of all that learns are noted; from the second one on,
the outermost parts that were called are heard in the model's place, as those of a loop by hand are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from sightline.attach.alive import modules_alive
from sightline.attach.hook import Hook
from sightline.attach.script.heap import compiled_parts, holders, outermost
from sightline.attach.script.parts import Parts
from sightline.attach.script.watch import Models, Watched


@dataclass(eq=False)
class Noted:
    """One model. called: what was called with gradients since its first step."""

    model: Watched
    called: list[nn.Module] = field(default_factory=list)
    handles: list[Any] = field(default_factory=list)

    def note(self, module: nn.Module, args: Any, kwargs: Any = None) -> None:
        """Hook before a call, with which a step may begin."""
        recorder = self.model.recorder
        if kwargs is None or not torch.is_grad_enabled() or recorder.muted:
            return
        self.called.append(module)
        if recorder.open_step is None:
            recorder.begin()

    def leave(self) -> None:
        """Note no more."""
        for handle in self.handles:
            handle.remove()


class Unheard:
    """Hears such models by their parts. `fault`: told of errors of our own."""

    def __init__(self, models: Models, fault: Callable[[str], None]) -> None:
        self._known: list[Noted] = []
        self._fault = lambda error: fault(f"unheard: {type(error).__name__}: {error}")
        models.entering.append(Hook(self._entering, self._fault))
        models.ending.append(Hook(self._ends, self._fault))
        models.before.append(Hook(self._before_step, self._fault))

    def _entering(self, model: Watched) -> None:
        if model.adopted:
            self._known.append(Noted(model))

    def _ends(self, model: Watched) -> None:
        for one in [one for one in self._known if one.model is model]:
            self._known.remove(one)
            one.leave()

    def _before_step(self, optimizer: Optimizer) -> None:
        """A step of anybody's: was a forward pass heard before it?"""
        for one in [*self._known]:
            r = one.model.recorder
            if one.model.attachment is None or r.forwards or r.asleep:
                self._ends(one.model)
            elif any(optimizer is held for held in r.optimizers):
                if one.handles:
                    self._ends(one.model)
                    self._hear(one.model, outermost(one.called))
                else:
                    self._listen(one)

    def _listen(self, one: Noted) -> None:
        """Note the calls of all that learns. Inside a compiled graph there is nothing to hear."""
        whole = one.model.recorder.model
        learning = [m for m in whole.modules() if any(p.requires_grad for p in m.parameters())]
        alive = holders(modules_alive(), {id(p) for p in whole.parameters()})
        graphs = {id(part) for module in alive for part in compiled_parts(module)}
        hook = Hook(one.note, self._fault)
        for module in learning:
            if id(module) not in graphs:
                one.handles.append(module.register_forward_pre_hook(hook, with_kwargs=True, prepend=True))
        if not one.handles:
            self._ends(one.model)

    def _hear(self, model: Watched, parts: list[nn.Module]) -> None:
        """From now on, its parts' calls are its forward passes. It may be judged as a whole."""
        attachment, recorder = model.attachment, model.recorder
        if not parts or attachment is None or recorder.ears is None:
            return
        recorder.ears.deaf()
        model.parts = Parts(recorder, [recorder.model, *parts], self._fault)
        attachment._handles += model.parts.handles
        recorder.pace.inner += 2 * len(parts)
