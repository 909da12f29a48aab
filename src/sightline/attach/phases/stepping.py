"""Optimizer steps: parameters just before and just after, and the step as evidence once all of it has arrived."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor
from torch.optim import Optimizer

from sightline.attach.meter import Before, rates_of
from sightline.attach.onlookers.onlooker import Onlooker
from sightline.attach.open_step import Loss, OpenStep, read
from sightline.attach.pace import Kind
from sightline.attach.phases.state import FLAGS, Build, State
from sightline.attach.standing import Standing
from sightline.guard.evidence import StepSeen
from sightline.guard.probes.non_finite import first_non_finite

BULK = 16  # heard steps that become evidence at once, unless one was measured or went wrong
PROMPT = 64  # steps of which each does by itself: early faults are told at the very step
TURNS = 8  # steps of others between two of one optimizer, as of a critic that is trained more often
PATIENCE, MANY = 64, 8  # forwards asleep without a step, and times as many as the last steps had: then the guard wakes


class Stepping:
    """Hears every optimizer's step, and measures those of optimizers that hold parameters of the model."""

    def __init__(self, state: State, standing: Standing) -> None:
        self._state, self._standing = state, standing
        self._before: Before | None = None
        self._grad_norms: dict[int, tuple[int, list[float]]] = {}
        self._took: dict[int, int] = {}  # id of an optimizer -> the number of its last step that was heard
        self._met: dict[int, tuple[list[float], set[int]]] = {}  # measured step -> the least that its passes met
        self._strangers: WeakKeyDictionary[Optimizer, int] = WeakKeyDictionary()
        self._waiting: list[tuple[OpenStep, Build]] = []  # whose losses are still on a device
        self.unsound: str | None = None  # the last operation of a backward pass that made NaN of finite gradients
        self._turns = 0  # steps in which a pass of another network came first
        self.sleepless: list[Onlooker] = []

    def before(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Hook before any optimizer's step."""
        s = self._state
        if s.asleep or s.muted:
            return
        if not self._knows(optimizer):
            step = self._current()
            if s.open_step is not None and s.open_step.measured:
                self._standing.note(s.step)
            if step is not None and len(step.turns) < 2:  # the second makes another order of it
                step.turns.append((step.passes, step.forwards))
            return
        with s.pace:
            s.mailbox.open()
            step = self._current()
            if (
                step
                and step.non_finite is None
                and not step.spoiled
                and any(not math.isfinite(loss) for loss in step.losses)
            ):
                self._name_non_finite(step)
            if not any(callable(value) for value in (*args[1:], *kwargs.values())):  # a closure runs inside the step
                self._look(optimizer, step)
            s.beside.stepping()

    def gradients_ready(self, optimizer: Optimizer) -> None:
        """A host's word from inside an optimizer's closure: the backward pass is over, the update comes next."""
        s = self._state
        if not s.asleep and not s.muted and self._knows(optimizer):
            with s.pace:
                self._look(optimizer, self._current())

    def _current(self) -> OpenStep | None:
        """The step in the making; or the last one, whose gradients another optimizer takes, too."""
        s = self._state
        return s.open_step or (s.stepped[-1][0] if s.stepped else None)

    def _look(self, optimizer: Optimizer, step: OpenStep | None) -> None:
        s = self._state
        self._before = s.meter.before() if step and step.measured else None
        s.onlookers.before_step(optimizer, measured=self._before is not None)

    def after(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Hook after any optimizer's step."""
        s = self._state
        if not self._knows(optimizer):
            return
        if s.asleep:
            self._slept(optimizer)
            return
        if s.muted:
            return
        with s.pace:
            second = s.open_step is None and bool(s.stepped)  # another optimizer, after the same backward pass
            step = s.stepped[-1][0] if second else (s.open_step or OpenStep(Kind.HEARD))
            s.step += not second
            self._close_step(step, optimizer)
            s.open_step, self._before = None, None
            if step.measured:
                self._standing.note(s.step)
            s.onlookers.after_step(optimizer, measured=step.measured)
            if not second:
                s.beside.stepped()
        if not second:
            s.pace.settle(s.step, step.kind, forwards=step.forwards)
            s.patience = max(PATIENCE, MANY * step.forwards)

    def slept_through(self, optimizer: Optimizer) -> None:
        """The last step that was counted is this optimizer's: what is met after it was not there for longer."""
        self._took[id(optimizer)] = self._state.step

    def idle(self) -> tuple[str, ...]:
        """Parameters that only optimizers hold of which no step was heard, and whose state is as they were made."""
        s = self._state
        never = [one for one in s.optimizers if id(one) not in self._took and not one.state]
        rest = [one for one in s.optimizers if not any(one is other for other in never)]
        held, moved = (
            {id(p) for o in some for group in o.param_groups for p in group["params"]} for some in (never, rest)
        )
        return tuple(name for name, p in s.meter.named if id(p) in held - moved) if rest else ()

    def _slept(self, optimizer: Optimizer) -> None:
        """A step that nothing was heard of, but how many forwards it had."""
        s = self._state
        if s.forwards and s.forwards == s.at_step:
            return  # another optimizer, after the same backward pass
        s.step += 1
        s.at_step = s.forwards
        self.slept_through(optimizer)
        s.stalled = s.forwards + s.patience
        for onlooker in self.sleepless:
            onlooker.slept(optimizer)
        if not s.step % FLAGS and s.woken():
            s.pace.again(s.step)
            s.wakes = s.step
        if s.step >= s.wakes:
            s.wake()

    def _close_step(self, step: OpenStep, optimizer: Optimizer) -> None:
        s, before, number = self._state, self._before, self._state.step
        named = s.meter.named
        rates = rates_of(optimizer, {id(p): name for name, p in named}) if before else {}
        place = next((n for n, one in enumerate(s.optimizers) if one is optimizer), 0)
        last, self._took[id(optimizer)] = self._took.get(id(optimizer), 0), number
        held = [name in rates for name, _ in named]
        table: list[Tensor] = []
        if before:
            s.mailbox.post([s.meter.after(before)], table.extend)

        def build(_: list[Tensor]) -> None:
            parameters = s.meter.seen(table[0], before, rates) if before and table else ()
            carried, before_that = self._left(optimizer, step, number, last, held)
            unsound = step.loss is not None and not math.isfinite(step.loss)
            if step.non_finite is None and not step.spoiled and unsound:
                self._name_non_finite(step)
            spoiled = step.spoiled or any(not math.isfinite(p.weight_norm) for p in parameters)
            whole = s.meter.whole and not step.asked  # FSDP adds up micro-batches where no hook sees it
            seen = StepSeen(
                step=number,
                loss=step.loss,
                tokens=step.tokens,
                micro=tuple(step.micro),
                means=step.alike,
                carried=carried,
                strayed=self._strayed(step, held),
                met=step.met_of([p.grad_norm is not None for p in parameters]) if whole else (),
                previous_grad_norm=before_that,
                parameters=parameters,
                first_non_finite=step.non_finite,
                spoiled=step.spoiled,
                first_gradient=step.unsound or (self.unsound if spoiled else None),
                optimizer=place,
            )
            if parameters:
                self._grad_norms[id(optimizer)] = number, [(p.grad_norm or 0.0) * p.optimized for p in parameters]
            s.offer(seen)

        s.stepped.append((step, build))

    def _left(
        self, optimizer: Optimizer, step: OpenStep, number: int, last: int, holds: Sequence[bool]
    ) -> tuple[float | None, float | None]:
        """Of the gradients that this optimizer's last step used, what every backward pass since has met; and their norm
        at that step. Without those that a pass may have met as it had put them there itself."""
        if step.carried is not None:
            met = step.carried, step.early
            self._met = {n: one for n, one in self._met.items() if n > number - TURNS} | {number: met}
        since = [self._met[n] for n in range(last + 1, number + 1) if n in self._met]
        held = [i for i, one in enumerate(holds) if one and not any(i in early for _, early in since)]
        known, norms = self._grad_norms.get(id(optimizer), (-1, []))
        used = math.hypot(*(norms[i] for i in held)) if known == last and last and len(norms) == len(holds) else None
        grown = any(len(least) != len(holds) for least, _ in since)
        if step.asked or number - last > TURNS or not held or not since or grown or len(since) < number - last:
            return None, used
        least = math.hypot(*(min(one[i] for one, _ in since) for i in held))
        return None if (step.reworked or step.unheard) and least else least, used

    def _strayed(self, step: OpenStep, holds: Sequence[bool]) -> float | None:
        """Gradients that a pass on to another network left in this optimizer's hands; 0 where none were left."""
        if step.strayed is None or len(step.turns) != 1 or step.reworked or step.unheard:
            return None
        self._turns += 1
        if self._turns < 2:  # once may be a beginning; an order repeats itself
            return None
        return math.hypot(*(norm for one, norm in zip(holds, step.strayed, strict=True) if one))

    def flush(self, *, all_: bool = True) -> None:
        """Steps that are over become evidence, once their measurements have arrived.

        Without `all_`, steps that were only heard wait until several are read from their device and judged at once.
        """
        s = self._state
        self._waiting += s.stepped
        s.stepped = []
        steps = [step for step, _ in self._waiting]
        if not all_ and steps and len(steps) < BULK and s.step > PROMPT and _can_wait(steps[-1]):
            return
        read(steps, s.mailbox)
        for _, build in self._waiting:
            s.mailbox.post([], build)
        self._waiting = []

    def told(self, loss: float | Tensor | None, tokens: int | None) -> None:
        """The host's own word on the step just taken (or, before the optimizer stepped, the one being made)."""
        s = self._state
        step = s.stepped[-1][0] if s.stepped else s.open_step
        if step is None:
            return
        step.tokens = tokens if tokens is not None else step.tokens
        if loss is not None:
            step.summed, step.unread = False, []
            step.losses.clear()
            step.hear(Loss(float(loss)) if not isinstance(loss, Tensor) else Loss.of(loss))

    def _knows(self, optimizer: Optimizer) -> bool:
        s = self._state
        for known in s.optimizers:
            if optimizer is known:
                return True
        if self._strangers.get(optimizer) == len(optimizer.param_groups):
            return False
        ours = {id(p) for _, p in s.meter.named}
        if not any(id(p) in ours for group in optimizer.param_groups for p in group["params"]):
            self._strangers[optimizer] = len(optimizer.param_groups)
            return False
        s.optimizers.append(optimizer)
        s.pace.again(s.step)
        if s.asleep:
            s.wakes = s.step + 1
        return True

    def _name_non_finite(self, step: OpenStep) -> None:
        s = self._state
        step.spoiled = s.meter.spoiled()
        if step.spoiled or s.last_call is None or not s.last_call.repeatable:
            return
        with s.silence():
            step.non_finite = first_non_finite(s.last_call) or "the loss function"


def _can_wait(step: OpenStep) -> bool:
    return not step.measured and step.non_finite is None and (step.loss is None or math.isfinite(step.loss))
