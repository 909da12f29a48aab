"""What an onlooker may implement."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from sightline.attach.mailbox import Mailbox
from sightline.attach.open_step import OpenStep
from sightline.attach.pace import Pace
from sightline.attach.towers import Towers
from sightline.guard.evidence import Evidence, LossSeen
from sightline.guard.probes.call import Call


class Recording(Protocol):
    """What onlookers see of the recorder.

    `pace`: when the guard looks; `step`: optimizer steps taken; `forwards`: training forwards, of all steps;
    `backwards`: backward passes through the model's outputs, of steps that were heard; `muted`: our own forward pass is
    running; `last_call`: None where the model must not be run again; `parted`: the calls of parts that are called one
    by one, and `opened`: the first that was given data; `open_step`: the one in the making; `stepped`: steps that are
    over and not yet evidence, the last one last. `beside_it`: smaller modules that the same optimizer moves;
    `imitates`: it is a generator (see `critic.py`).
    """

    model: nn.Module
    towers: Towers
    mailbox: Mailbox
    pace: Pace
    offer: Callable[[Evidence], Any]
    step: int
    forwards: int
    backwards: int
    declared: bool
    declarations: int
    last_call: Call | None
    parted: list[tuple[Call, Any]]
    opened: Call | None
    beside_it: list[weakref.ref[nn.Module]]
    open_step: OpenStep | None
    stepped: list[tuple[OpenStep, Any]]

    @property
    def muted(self) -> bool: ...

    @property
    def imitates(self) -> bool: ...

    def silence(self) -> AbstractContextManager[None]: ...

    def habit(self, last: int) -> bool: ...


class Onlooker:
    """Does nothing; each onlooker overrides what it needs. `measured`: whether the step may be measured at a cost.

    While the guard sleeps (see `attach/pace.py`) only `slept` may be called. Between two steps that are heard there may
    be many that were not: counts of passes are the recorder's, and what compares steps looks at their numbers.
    """

    shows: ClassVar[tuple[str, ...]] = ()
    measured_only: ClassVar[bool] = False  # whether `forward` is for measured steps and evaluations alone

    def __init__(self, recorder: Recording) -> None:
        self.recorder = recorder

    def forward(self, call: Call, output: Any, *, training: bool, measured: bool) -> None:
        """The host ran the model."""

    def heed(self, given: Tensor, act: Callable[[Tensor], None]) -> None:
        """`act` on the gradient of `given`: on the first that is the host's own."""
        done = False

        def came(grad: Tensor) -> None:
            nonlocal done
            if not done and not self.recorder.muted:
                done = True
                act(grad)

        given.register_hook(came)

    def taught(self, ids: Tensor, loss: LossSeen) -> None:
        """What a loss taught of a batch's (B, T) ids, on the CPU, where the model itself returned no logits of them."""

    def backward(self, root: Tensor) -> None:
        """A backward pass is about to begin from a number, of whatever model. Told by the door for scripts alone."""

    def before_step(self, optimizer: Optimizer, *, measured: bool) -> None:
        """An optimizer of the model is about to step (the recorder's `step` does not count it yet)."""

    def after_step(self, optimizer: Optimizer, *, measured: bool) -> None:
        """It stepped (the recorder's `step` counts it)."""

    def again(self) -> None:
        """Other things can learn, or in another format, or by another optimizer: what was seen says little of this."""

    def sleeps(self) -> bool:
        """The guard falls asleep. Whether `slept` must be called after each step: a microsecond is all there is."""
        return False

    def slept(self, optimizer: Optimizer) -> None:
        """It stepped while the guard slept (the recorder's `step` counts it)."""

    def woke(self, steps: int) -> None:
        """The guard wakes, after so many steps."""

    def planned(self, steps: int) -> None:
        """The host said how many steps there will be."""

    def autocast(self, device: str, dtype: str) -> None:
        """The host said that it runs the model under autocast."""

    def released(self) -> None:
        """The last step was taken, and its optimizer is to be let go; the model may still be judged."""

    def close(self, *, broken: bool) -> None:
        """The run is over."""
