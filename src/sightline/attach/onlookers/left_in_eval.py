"""A model that was trained in train mode, was evaluated, and is trained in evaluation mode ever since."""

from __future__ import annotations

from typing import Any, ClassVar

from torch.optim import Optimizer

from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.attach.towers import changes_with_mode
from sightline.guard.evidence import LeftInEvalSeen
from sightline.guard.probes.call import Call

STEPS, FEWEST = 16, 8  # optimizer steps in evaluation mode, and how many will do where the run ends


class LeftInEval(Onlooker):
    """Follows the mode of training passes around the first evaluation; one step in train mode after it ends this."""

    shows: ClassVar = ("LeftInEvalSeen",)

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self._parts = [part for part in recorder.model.modules() if changes_with_mode(part)]
        self._over = not self._parts
        self._since: int | None = None  # the step of the first evaluation in evaluation mode
        self._before = self._after = 0  # steps in train mode before it, and in evaluation mode after it
        self._lively: bool | None = None  # in the training passes of the step in the making

    def forward(self, call: Call, output: Any, *, training: bool, measured: bool) -> None:
        """Which mode is it in?"""
        if self._over:
            return
        lively = self.recorder.model.training or any(part.training for part in self._parts)
        if training:
            self._lively = lively or bool(self._lively)
        elif not lively and self._before and self._since is None:
            self._since = self.recorder.step

    def after_step(self, optimizer: Optimizer, *, measured: bool) -> None:
        """Who only looks at gradients, to attack a model or to explain it, takes no step."""
        if self._over or self._lively is None:
            return
        lively, self._lively = self._lively, None
        self._over = lively if self._since is not None else not lively  # who starts in evaluation mode means to
        self._before += lively
        self._after += not lively and self._since is not None
        if self._after == STEPS:
            self._show()

    def close(self, *, broken: bool) -> None:
        """The run is over."""
        if not self._over and self._after >= FEWEST:
            self._show()
        self._parts = []

    def _show(self) -> None:
        names = tuple(n for n, part in self.recorder.model.named_modules() if any(part is own for own in self._parts))
        self._over = True
        self.recorder.offer(LeftInEvalSeen(self.recorder.step, self._since or 0, self._before, self._after, names))
