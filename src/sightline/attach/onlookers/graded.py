"""Evaluations with gradients on: `torch.no_grad()` was forgotten along with `eval()`, so they look like training.

What tells them from training: several batches in a row, of a data set that no step was ever taken on, that no backward
pass came back to. What is left to training itself: passes at every step, those whose outputs nobody reads (statistics
for another domain), a second look at the data that is trained on. One evaluation may be the beginning of something
else, so it waits for another, or for the end of the run.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from torch import nn
from torch.optim import Optimizer

from sightline.attach.feed import Feed
from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.attach.phases.draws import Draws
from sightline.attach.phases.place import thrown_away
from sightline.guard.evidence import EvaluationSeen
from sightline.guard.probes.call import Call, differentiable
from sightline.guard.probes.twice import mode_gap

BATCHES = 2  # one alone may be a look at the data of a next stage
PROBED = 3  # evaluations that are run again: after that, a difference would have shown


@dataclass(eq=False)
class Round:
    """Forward passes in a row on the batches of one data set, known by its id.

    `turns`: steps of other networks before it; `back`: it is no evaluation; `drops`: dropout is all that is on.
    """

    data: int
    draws: Draws
    turns: int
    places: set[tuple[int, int]] = field(default_factory=set)
    back: bool = False
    gap: float | None = None
    drops: bool = False

    def came(self, *_: object) -> None:
        """A backward pass came back to an output."""
        self.back = True

    def seen(self) -> EvaluationSeen | None:
        """What it shows, if that is sure. Reads the device where dropout is all that is on."""
        if self.back or not self.gap or len(self.places) < BATCHES or (self.drops and self.draws.meant()):
            return None
        return replace(self.draws.seen, mode_gap=self.gap, graded=len(self.places))


class Graded(Onlooker):
    """Follows which data sets steps are taken on, and the passes on others."""

    shows: ClassVar = ("EvaluationSeen",)

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self._over = any(isinstance(part, nn.SyncBatchNorm) for part in recorder.model.modules())
        self._trained: set[int] = set()  # data sets of batches that a step was taken on
        self._last: int | None = None  # that of the last training forward, in the step in the making
        self._round: Round | None = None
        self._ended: Round | None = None  # in the step in the making
        self._held: tuple[Round, EvaluationSeen] | None = None  # the first that was one for sure
        self._probed = 0

    def forward(self, call: Call, output: Any, *, training: bool, measured: bool) -> None:
        """A training forward, as it seems."""
        if self._over or not training or (feed := Feed.last()) is None:
            return
        data = self._last = id(feed.loader.dataset)
        if self._round is not None and self._round.data != data:
            self._ends()
        if not self._trained or data in self._trained:
            return
        if self._round is None:
            lively = self._lively(call)
            if not lively or self._probed == PROBED or thrown_away():
                return
            first = EvaluationSeen(self.recorder.step, False, lively)
            self._round = Round(data, Draws(first, call), self._turns(), drops=Draws.may_be(first, call.model))
        else:
            with self.recorder.silence():
                self._round.draws.add(call)
        self._heard(self._round, call, output, (feed.epoch, feed.place))

    def _heard(self, one: Round, call: Call, output: Any, place: tuple[int, int]) -> None:
        outputs = differentiable(output)
        one.back |= not outputs or not call.repeatable or self._turns() != one.turns
        for tensor in outputs:
            tensor.register_hook(one.came)
        one.places.add(place)
        if not one.back and one.gap is None and len(one.places) == BATCHES:
            self._probed += 1
            with self.recorder.silence():
                one.gap = mode_gap(call)
            one.back |= not one.gap

    def _lively(self, call: Call) -> tuple[str, ...]:
        """None where somebody has chosen the modes: whoever forgets `eval()` leaves all of the model as it was."""
        towers = self.recorder.towers
        return tuple(n for tower in towers.modules for n in towers.lively(tower)) if call.model.training else ()

    def _turns(self) -> int:
        """Steps of other networks in this step: passes between them are part of their training."""
        step = self.recorder.open_step
        return len(step.turns) if step is not None else 0

    def _ends(self) -> None:
        """Another data set's batches come, or nothing more."""
        one, self._round = self._round, None
        if one is not None and self._turns() == one.turns:
            self._ended = self._ended or one

    def after_step(self, optimizer: Optimizer, *, measured: bool) -> None:
        """What came last before it was trained on."""
        if self._over or self._last is None:
            return
        self._trained.add(self._last)
        self._last = None
        self._ends()
        self._settle()

    def _settle(self) -> None:
        one, self._ended = self._ended, None
        if one is not None and one.back:
            self._trained.add(one.data)
        if self._held is not None and self._held[0].data in self._trained:
            self._held = None
        if one is None or one.data in self._trained or (seen := one.seen()) is None:
            return
        if self._held is None:
            self._held = one, seen
            return
        last = self._held[1].step
        self._show(replace(seen, since=1 if self.recorder.habit(last) else seen.step - last))

    def _show(self, seen: EvaluationSeen) -> None:
        self._over, self._held = True, None
        self.recorder.offer(replace(seen, imitates=self.recorder.imitates))

    def woke(self, steps: int) -> None:
        """What belongs together is not known."""
        self._round = self._ended = self._last = None

    def close(self, *, broken: bool) -> None:
        """The run is over: an evaluation after the last step is one, too."""
        if not broken and not self._over:
            self._ends()
            self._settle()
            if self._held is not None:
                self._show(self._held[1])
        self._round = self._ended = self._held = None
