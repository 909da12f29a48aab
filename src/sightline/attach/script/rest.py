"""What a process listens to while any model that it trains is awake, and which would only cost time while all sleep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch.optim.optimizer import register_optimizer_step_pre_hook

from sightline.attach.phases.state import Ears


@dataclass(frozen=True, slots=True)
class Awake:
    """The handle of a model that is awake. Removed, it lets the process rest."""

    remove: Callable[[], None]


class Attention:
    """Hears what comes before each optimizer's step, and opens `ears`; or does neither.

    `hear`: the hook; `asleep`: whether all models sleep. ears: what else is opened and closed. needs: whether somebody
    has steps to hear though all sleep. resting: nothing but the ends of steps is heard.
    """

    def __init__(self, hear: Callable[..., None], asleep: Callable[[], bool]) -> None:
        self._hear, self._asleep = hear, asleep
        self.ears: list[Ears] = []
        self.needs: list[Callable[[], bool]] = []
        self._handle: Any = None
        self.resting = True
        self.listen()

    def listen(self) -> None:
        """Hear all that happens in a step."""
        if self.resting:
            self._handle = register_optimizer_step_pre_hook(self._hear)
            self.resting = False
            for ear in self.ears:
                ear.listen()

    def rest(self) -> None:
        """Hear less, where all sleep. Not to be called just before a step, when torch goes through these hooks."""
        if not self.resting and self._asleep() and not any(need() for need in self.needs):
            self.close()
            for ear in self.ears:
                ear.rest()

    def awake(self) -> Awake:
        """One model is awake, until the handle is removed."""
        self.listen()
        return Awake(self.rest)

    def close(self) -> None:
        """Take the hook away."""
        if not self.resting:
            self._handle.remove()
            self.resting = True
