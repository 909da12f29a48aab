"""A model that was trained in train mode, was evaluated, and is trained in evaluation mode from then on.

Either ever since, or after each of several evaluations until train mode is asked for elsewhere, as at the next epoch's
top. There are loops that train by turns in one mode and the other on purpose: what counts of the second kind are steps
of the same line and the same optimizer that took steps in train mode just before the evaluation.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch.optim import Optimizer

from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.attach.phases.place import Place, called_from
from sightline.attach.towers import changes_with_mode
from sightline.guard.evidence import LeftInEvalSeen
from sightline.guard.probes.call import Call

STEPS, FEWEST = 16, 8  # optimizer steps in evaluation mode, and how many will do where the run ends
TIMES, EACH = 2, 4  # evaluations that left it on, and steps at once after each of them, where train mode came back


class LeftInEval(Onlooker):
    """Follows the mode of training passes around evaluations. A change without one between is meant, and ends this."""

    shows: ClassVar = ("LeftInEvalSeen",)

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self._parts = [part for part in recorder.model.modules() if changes_with_mode(part)]
        self._over = not self._parts
        self._since: int | None = None  # the step of the first evaluation in evaluation mode
        self._before = self._after = 0  # steps in train mode, and in evaluation mode after the first evaluation
        self._again = False  # train mode came back after it
        self._lively: bool | None = None  # in the training passes of the step in the making
        self._last: int | None = None  # the step before, while it was in train mode
        self._spells: list[list[int]] = []  # [evaluation, steps in evaluation mode at once after it]
        self._open = False  # the last of them goes on
        self._known: set[Place | int] = (
            set()
        )  # lines that ran the model in train mode, and optimizers that stepped then
        self._places: set[Place | int] = set()  # those of the step in the making

    def forward(self, call: Call, output: Any, *, training: bool, measured: bool) -> None:
        """Which mode is it in?"""
        if self._over:
            return
        lively = self.recorder.model.training or any(part.training for part in self._parts)
        if training:
            self._lively = lively or bool(self._lively)
            self._places.add(called_from())
        elif not lively and self._before:
            step = self.recorder.step
            self._since = step if self._since is None else self._since
            if self._last == step:
                self._spells.append([step, 0])
                self._open, self._last = True, None

    def after_step(self, optimizer: Optimizer, *, measured: bool) -> None:
        """Who only looks at gradients, to attack a model or to explain it, takes no step."""
        if self._over or self._lively is None:
            return
        lively, places = self._lively, self._places | {id(optimizer)}
        self._lively, self._places = None, set()
        if lively:
            self._known |= places
            self._before += 1
            self._again, self._last, self._open = self._since is not None, self.recorder.step, False
            return
        self._over = self._since is None or self._last is not None  # who starts or goes over to it by itself means to
        self._after += not self._over
        if self._open and places <= self._known:
            self._spells[-1][1] += 1
        self._open &= places <= self._known
        if not self._over and (self._left() if self._again else self._after == STEPS):
            self._show()

    def woke(self, steps: int) -> None:
        """What steps were like in between is not known."""
        self._open, self._last, self._lively, self._places = False, None, None, set()

    def close(self, *, broken: bool) -> None:
        """The run is over."""
        if not self._over and not self._again and self._after >= FEWEST:
            self._show()
        self._parts = []

    def _long(self) -> list[list[int]]:
        return [one for one in self._spells if one[1] >= EACH]

    def _left(self) -> bool:
        return len(self._long()) >= TIMES and sum(steps for _, steps in self._long()) >= STEPS

    def _show(self) -> None:
        names = tuple(n for n, part in self.recorder.model.named_modules() if any(part is own for own in self._parts))
        self._over = True
        step, since, before, after, times = self.recorder.step, self._since or 0, self._before, self._after, 0
        if self._again:
            spells = self._long()
            since, after, times = spells[0][0], sum(steps for _, steps in spells), len(spells)
        self.recorder.offer(LeftInEvalSeen(step, since, before, after, names, times))
