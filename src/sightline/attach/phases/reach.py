"""Where a backward pass puts what it finds: into the gradients of a model's parameters, or elsewhere.

`torch.autograd.grad` with respect to an input (an attack, a penalty, virtual adversarial training) comes through a
model's outputs as any backward pass does, and gives its parameters nothing.
"""

from __future__ import annotations

from enum import Enum

import torch
from torch.autograd.graph import get_gradient_edge

from sightline.attach.open_step import OpenStep
from sightline.attach.phases.state import State

LOOKS = 64  # parameters that are asked for, evenly spread: a loss that trains a model reaches its first or its last


class Way(Enum):
    """Of one pass. `KEPT`: parameters keep their gradients; `GIVEN`: to whoever asked for those of parameters."""

    KEPT = "kept"
    GIVEN = "given"
    ELSEWHERE = "elsewhere"


class Reach:
    """Asks torch's engine, from inside a backward pass, what that pass is for."""

    def __init__(self, state: State) -> None:
        self._state, self._task, self._way = state, -1, Way.KEPT
        self._ever = False  # a pass gave gradients to parameters: not where these are parts of others (FSDP)
        self._last = 0  # the place of the parameter that told so

    def way(self) -> Way:
        """Of the pass that runs in this thread; outside of one, of one that comes."""
        task = torch._C._current_graph_task_id()
        if task < 0:
            return Way.KEPT
        if task != self._task:
            with self._state.pace:
                self._task, self._way = task, self._ask()
        return self._way

    def counts(self, step: OpenStep) -> bool:
        """Whether the pass is one of `step`: of several kinds in one step, those are whose gradients stay."""
        way = self.way()
        if way is Way.KEPT:
            if step.loose:
                step.loose, step.unread = False, []
                step.losses.clear()
                self._state.mailbox.post([], lambda _: step.forget())
            step.kept = self._ever = True
            return True
        counts = not step.kept and (way is Way.GIVEN or not self._ever)
        step.loose = step.loose or counts
        return counts

    def _ask(self) -> Way:
        named = self._state.meter.named
        apart = max(1, len(named) // LOOKS)
        given = learns = False
        for place in (self._last, *range(0, len(named), apart), len(named) - 1):
            parameter = named[place][1] if 0 <= place < len(named) else None
            if parameter is None or not parameter.requires_grad:
                continue
            learns = True
            try:
                if torch._C._will_engine_execute_node(get_gradient_edge(parameter).node):
                    self._last = place
                    return Way.KEPT
            except RuntimeError:  # so it answers for a leaf whose gradient was asked for by name
                given = True
        if not learns:  # all of them are frozen, and tell nothing
            return Way.KEPT
        return Way.GIVEN if given else Way.ELSEWHERE
