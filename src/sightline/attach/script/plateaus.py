"""Schedules that cut the rate when a number gets no better: which numbers they were given, and when they cut."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch.optim.lr_scheduler import ReduceLROnPlateau

from sightline.attach.hook import Hook
from sightline.attach.script.watch import Models
from sightline.guard.evidence import PlateauSeen

MOST = 1000  # numbers of one schedule that are kept: epochs, mostly


@dataclass(slots=True)
class Given:
    """What one schedule was given, and after which of these it cut the rate."""

    values: list[float] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)


class Plateaus:
    """All of a script's. `fault`: told of errors of our own."""

    def __init__(self, models: Models, fault: Callable[[str], None]) -> None:
        self._models = models
        self._given: weakref.WeakKeyDictionary[Any, Given] = weakref.WeakKeyDictionary()
        self._stepped = Hook(self._came, lambda error: fault(f"plateau: {type(error).__name__}: {error}"))

    def install(self) -> None:
        """Hear them from now on."""
        step = ReduceLROnPlateau.step

        @functools.wraps(step)
        def stepping(schedule: Any, metrics: Any, *args: Any, **kwargs: Any) -> Any:
            before = [group["lr"] for group in schedule.optimizer.param_groups]
            result = step(schedule, metrics, *args, **kwargs)
            self._stepped(schedule, metrics, before)
            return result

        ReduceLROnPlateau.step = stepping  # type: ignore[method-assign, assignment]

    def _came(self, schedule: Any, metrics: Any, before: list[float]) -> None:
        given = self._given.setdefault(schedule, Given())
        given.values.append(float(metrics))
        groups = schedule.optimizer.param_groups
        if any(float(group["lr"]) < float(was) for group, was in zip(groups, before, strict=True)):
            given.cuts.append(len(given.values) - 1)
            if len(given.values) <= MOST:
                self._tell(schedule, given)

    def _tell(self, schedule: Any, given: Given) -> None:
        held = {id(p) for group in schedule.optimizer.param_groups for p in group["params"]}
        for one in self._models.live:
            if one.attachment is not None and any(id(p) in held for p in one.recorder.model.parameters()):
                seen = PlateauSeen(one.recorder.step, schedule.mode, tuple(given.values), tuple(given.cuts))
                one.attachment.show(seen)
