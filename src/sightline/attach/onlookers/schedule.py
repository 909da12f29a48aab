"""The learning rate as the optimizer sees it, and how often the schedule that sets it advances, and when."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, ClassVar

from torch import nn
from torch.optim import Optimizer, lr_scheduler
from torch.optim.swa_utils import SWALR

from sightline.attach.alive import living
from sightline.attach.foreseen import lowest
from sightline.attach.given_rates import empty_rates, given_rates
from sightline.attach.left_behind import LeftBehind
from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.attach.towers import Towers
from sightline.attach.travelled import Travelled
from sightline.guard.evidence import ScheduleSeen
from sightline.guard.probes.call import Call

LOOKS = 6  # searches for the schedule object a run: at the start, and where the rate changes without it
NEARLY = 0.9  # of the steps: a schedule of a loop's own may rest before it begins, or at its end
OPTIMIZERS = 3  # followed at most
EVERY, SHARE = 256, 4  # steps between two showings, and their number by this: a check reads all rates each time


class Track:
    """One optimizer's rates and its schedule."""

    def __init__(self, optimizer: Optimizer, model: nn.Module, towers: Towers, forwards: int) -> None:
        self.optimizer = optimizer
        self.rates: list[float] = []
        self.restored = bool(optimizer.state)
        self.first_forwards = forwards
        self.first_tick: int | None = None
        self.inside = self.early = self.watched = 0
        self.replaced: list[int] = []
        self.joined, self.behind = 0, LeftBehind(optimizer)
        self._varied = False
        self._known: weakref.ref[Any] | None = None
        self._looks = LOOKS
        self._ticked_inside = False
        self._forward_tick: int | None = None  # at the last training forward of the step in the making
        self._step_tick: int | None = None
        self._called: int | None = None  # at the last step
        self._about: tuple[str | None, int | None, bool, int | None] = (None, None, False, None)  # what is known of it
        self._travelled = Travelled(model, towers, optimizer)
        self._given = given_rates(optimizer, model)  # of no more interest once two groups had different ones

    @property
    def schedule(self) -> Any:
        """The one schedule that drives this optimizer, or None."""
        return self._known() if self._known is not None else None

    @property
    def tick(self) -> int | None:
        """How often it advanced."""
        ticks = getattr(self.schedule, "last_epoch", None)
        return ticks if isinstance(ticks, int) else None

    def forward(self) -> None:
        """A training forward."""
        tick = self.tick
        self._ticked_inside |= self._forward_tick is not None and tick != self._forward_tick
        self._forward_tick = tick

    def stepping(self, *, heard: bool = True) -> None:
        """The optimizer is about to step. Without `heard`: it did, and nothing is known of the forwards before."""
        rate = largest_rate(self.optimizer)
        if self._looks and (not self.rates or (rate != self.rates[-1] and not self._set(rate))):
            self._look()
        tick = self.tick
        if not self.rates:
            self.first_tick = tick
        if heard:
            self.watched += 1
            self.early += tick is not None and self._forward_tick is not None and tick != self._forward_tick
            self.inside += self._ticked_inside
        self.rates.append(rate)
        self._varied |= rate != self.rates[0]
        if self._given and len({self._of(place, "lr") for place in self._given}) > 1:
            self._given = {}
        self._step_tick, self._forward_tick, self._ticked_inside = tick, None, False
        self._called = called(self.schedule) if tick == 0 else None

    def _set(self, rate: float) -> bool:
        """Whether the schedule that is known has advanced and set this rate: not so where another took its place."""
        rates = getattr(self.schedule, "_last_lr", None) or [rate]
        return self.schedule is not None and self.tick != self._step_tick and max(rates) == rate

    def _of(self, place: int, name: str) -> float:
        groups = self.optimizer.param_groups
        return float(groups[place].get(name) or 0.0) if place < len(groups) else 0.0

    @property
    def steady(self) -> bool:
        """Whether nothing is known that would change the rate."""
        return self._known is None and bool(self.rates) and not self._varied

    def _look(self) -> None:
        self._looks -= 1
        known, found = self.schedule, schedules_of(self.optimizer)
        others = [one for one in found if one is not known]
        if len(others) != 1:
            return  # none, or several that share the work
        if self.rates and self._step_tick is not None and others[0].last_epoch < self._step_tick:
            self.replaced.append(len(self.rates))
            self._forward_tick = None
        if known is None or self.replaced:
            self._known = weakref.ref(others[0])
            end = horizon(others[0])
            foreseen = lowest(others[0]) if end is None else None
            self._about = type(others[0]).__name__, end, periodic(others[0]), foreseen

    def seen(self, step: int, forwards: int, planned: int | None, closed: bool) -> ScheduleSeen:
        """The evidence now. Of a schedule that a function dropped when it returned, as it was at the last step."""
        ticks = self.tick if self.schedule is not None else self._step_tick
        if ticks is None and self._known is None:
            ticks = by_hand(self.rates)
        name, end, again, foreseen = self._about if ticks is not None else (None, None, False, None)
        return ScheduleSeen(
            step=step,
            rates=tuple(self.rates),
            forwards=forwards,
            scheduler=name,
            ticks=ticks,
            first_tick=self.first_tick,
            called=called(self.schedule) if self.schedule is not None else self._called,
            horizon=end,
            rise=rise(self.schedule) if ticks is not None else None,
            cycle=getattr(self.schedule, "T_0", None) if ticks is not None else None,
            foreseen=foreseen,
            periodic=again,
            first_forwards=self.first_forwards,
            inside=self.inside,
            early=self.early,
            joined=self.joined > 0,
            elsewhere=0 if self._varied or ticks is not None else self.behind.look(),
            watched=self.watched,
            replaced=tuple(self.replaced),
            restored=self.restored,
            planned=planned,
            base=max((float(group.get("initial_lr", 0.0)) for group in self.optimizer.param_groups), default=0.0)
            or None,
            closed=closed,
            given=tuple(self._given.values()),
            empty=empty_rates(self.optimizer),
            travelled=self._travelled.far() if closed else None,
            aligned=self._travelled.aligned,
            bases=tuple(self._of(place, "initial_lr") for place in self._given),
        )


class Schedules(Onlooker):
    """Follows every optimizer of the model."""

    shows: ClassVar = ("ScheduleSeen",)

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self._tracks: dict[int, Track] = {}
        self._next = 2  # steps at which the rates are shown
        self._filled = False  # of the steps slept through, when the guard wakes
        self._planned: int | None = None
        self._taken: list[int] = []  # steps at which one optimizer took over from another
        self._last: weakref.ref[Optimizer] | None = None

    def forward(self, call: Call, output: Any, *, training: bool, measured: bool) -> None:
        """Note where the schedule stands."""
        if training:
            for track in self._tracks.values():
                track.forward()

    def before_step(self, optimizer: Optimizer, *, measured: bool) -> None:
        """Note the rate that this step uses."""
        if self._last is None or self._last() is not optimizer:
            self._turn(optimizer)
        if id(optimizer) not in self._tracks and len(self._tracks) < OPTIMIZERS:
            here = self.recorder
            self._tracks[id(optimizer)] = Track(optimizer, here.model, here.towers, here.forwards)
        step = self.recorder.open_step
        if track := self._tracks.get(id(optimizer)):
            track.joined += step is not None and step.forwards > step.passes == 1
            track.stepping()

    def _turn(self, optimizer: Optimizer) -> None:
        """Another optimizer steps than the last time: is it a new one for the very same parameters?"""
        first, self._last = next(iter(self._tracks.values()), None), weakref.ref(optimizer)
        for track in self._tracks.values():
            track.behind.stepped(optimizer)
        if first is None or id(optimizer) in self._tracks or type(optimizer) is not type(first.optimizer):
            return
        mine, other = (
            [id(p) for group in o.param_groups for p in group["params"]] for o in (optimizer, first.optimizer)
        )
        if mine == other and first.rates and first.rates[0] == largest_rate(optimizer):
            self._taken.append(self.recorder.step)

    def after_step(self, optimizer: Optimizer, *, measured: bool) -> None:
        """Show what was seen, now and then."""
        track = self._tracks.get(id(optimizer))
        taken = len(track.rates) if track else 0
        if track and taken >= self._next:
            self._next = min(2 * taken, taken + max(EVERY, taken // SHARE))
            self._show(track, closed=False)

    def sleeps(self) -> bool:
        """A rate that never changed so far need not be read at each step."""
        self._filled = len(self._tracks) == 1 and all(track.steady for track in self._tracks.values())
        return bool(self._tracks) and not self._filled

    def slept(self, optimizer: Optimizer) -> None:
        """The rate that it used is still there."""
        if track := self._tracks.get(id(optimizer)):
            track.stepping(heard=False)

    def woke(self, steps: int) -> None:
        """Of one optimizer without a schedule, the rate was what it had been."""
        if self._filled:
            for track in self._tracks.values():
                track.rates += [track.rates[-1]] * steps

    def planned(self, steps: int) -> None:
        """Kept for the evidence."""
        self._planned = steps

    def released(self) -> None:
        """It is said now: a dropped optimizer has no schedule."""
        self.close(broken=False)

    def close(self, *, broken: bool) -> None:
        """The last word on each optimizer; what belongs to the host is let go."""
        for track in self._tracks.values():
            if len(track.rates) > 1:
                self._show(track, closed=not broken)
        self._tracks.clear()

    def _show(self, track: Track, *, closed: bool) -> None:
        seen = track.seen(self.recorder.step, self.recorder.forwards, self._planned, closed)
        self.recorder.offer(replace(seen, anew=tuple(self._taken)))


def by_hand(rates: Sequence[float]) -> int | None:
    """How often a loop that sets the rate itself has set another one, where it does so before nearly every step."""
    changes = sum(a != b for a, b in pairwise(rates))
    return changes if changes and changes >= NEARLY * (len(rates) - 1) else None


def largest_rate(optimizer: Optimizer) -> float:
    """Of its groups."""
    return max((float(group.get("lr") or 0.0) for group in optimizer.param_groups), default=0.0)


def schedules_of(optimizer: Optimizer) -> list[Any]:
    """The schedules that drive an optimizer; those inside another (`SequentialLR`) are left out.

    Every schedule of torch leaves ``initial_lr`` in the groups; without it, nothing is searched.
    """
    if not any("initial_lr" in group for group in optimizer.param_groups):
        return []
    found = [one for one in living(lr_scheduler.LRScheduler) if _drives(one, optimizer)]
    inner = {id(part) for one in found for part in getattr(one, "_schedulers", ())}
    return [one for one in found if id(one) not in inner]


def _drives(schedule: Any, optimizer: Optimizer) -> bool:
    """Whether it was made for this optimizer, or for a wrapper around it (accelerate's, in every Trainer)."""
    given = getattr(schedule, "optimizer", None)
    return given is optimizer or getattr(given, "optimizer", None) is optimizer


def called(schedule: Any) -> int | None:
    """How often its `step()` was called since it was made, where torch counts that.

    A step of somebody's own does not count, and one that waits for the averaging of weights may wait for all the run.
    """
    if isinstance(schedule, lr_scheduler.SequentialLR):
        return called(schedule._schedulers[0])
    if isinstance(schedule, lr_scheduler.CosineAnnealingWarmRestarts):
        return int(schedule.last_epoch > 0 or schedule.T_cur > 0)
    count = getattr(schedule, "_step_count", 0)
    return count - 1 if isinstance(count, int) and count and not isinstance(schedule, SWALR) else None


def periodic(schedule: Any) -> bool:
    """Whether a schedule that is meant to end at its horizon goes up again beyond it."""
    if isinstance(schedule, lr_scheduler.SequentialLR):
        return periodic(schedule._schedulers[-1])
    rules = (rule.keywords for rule in getattr(schedule, "lr_lambdas", ()) if isinstance(rule, functools.partial))
    half = any(keywords.get("num_cycles") == 0.5 for keywords in rules)  # transformers' cosine: half a wave
    return half or isinstance(schedule, lr_scheduler.CosineAnnealingLR)


def rise(schedule: Any) -> int | None:
    """After how many ticks a cyclic rate is at its highest for the first time."""
    cyclic = isinstance(schedule, lr_scheduler.CyclicLR)
    return round(schedule.total_size * schedule.step_ratio) if cyclic else None


def horizon(schedule: Any) -> int | None:
    """After how many ticks a schedule is meant to be over, where its own attributes say so."""
    if isinstance(schedule, lr_scheduler.SequentialLR):
        last = horizon(schedule._schedulers[-1])
        return None if last is None else last + schedule._milestones[-1]
    if isinstance(schedule, lr_scheduler.CosineAnnealingLR):
        return int(schedule.T_max)
    if isinstance(schedule, lr_scheduler.OneCycleLR):
        return int(schedule.total_steps)
    if isinstance(schedule, lr_scheduler.PolynomialLR):
        return int(schedule.total_iters)
    if isinstance(schedule, lr_scheduler.LinearLR) and schedule.end_factor < schedule.start_factor:
        return int(schedule.total_iters)
    for rule in getattr(schedule, "lr_lambdas", ()):  # transformers' schedules keep their length in a partial
        steps = rule.keywords.get("num_training_steps") if isinstance(rule, functools.partial) else None
        if steps is not None:
            return int(steps)
    return None
