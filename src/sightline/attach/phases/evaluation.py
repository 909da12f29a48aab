"""Evaluation: forward passes without gradients, or those that the host declares.

The first evaluations are looked at in full, later ones when the budget allows. What runs without gradients at every
step (a rollout, a teacher) is a habit of training, and only noticed once it is known as such.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sightline.attach.phases.draws import Draws
from sightline.attach.phases.relapse import Relapse
from sightline.attach.phases.state import State
from sightline.guard.evidence import EvaluationSeen, Evidence
from sightline.guard.probes.call import Call, outcome
from sightline.guard.probes.twice import mode_gap

FIRST = 8  # evaluations that are looked at whatever they cost


def counts_anew(model: nn.Module) -> bool:
    """Whether this pass takes the statistics of batch norm anew, over all that it is shown, as `update_bn` does."""
    norms = (m for m in model.modules() if isinstance(m, _BatchNorm)) if model.training else ()
    return any(norm.training and norm.momentum is None for norm in norms)


class Evaluation:
    """Looks at what a host judges its model by."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._rounds = 0
        self._last = -99  # the step of the round before
        self._full = True
        self._draws: Draws | None = None
        self._relapse = Relapse()
        self._late: tuple[Draws, int] | None = None  # what may be the run's last word, and the forwards until then
        self._since: int | None = None  # turns of the loop since the round before
        self._modes: set[bool] = set()  # in which evaluations began that were looked at
        self._parts: set[nn.Module] = set()  # those that were asked in this round, of a model that is called in parts

    def judged(self, call: Call, output: Any = None) -> None:
        """An evaluation forward."""
        s = self._state
        if counts_anew(call.model):
            return
        self._seen(call, output)
        if s.audience is not None:
            s.audience.gave(s, call, output)

    def _seen(self, call: Call, output: Any) -> None:
        """The first forward after training steps stands for the others, but for scores and padding."""
        s = self._state
        first = not s.evaluated
        if first:
            self._begin(call.model.training)
        if self._full and s.probing.wants("EvaluationSeen"):
            self._afterwards(call)
            if self._relapse.passed(call):
                self._fell_back(call)
        if self._full:
            with s.silence():
                s.probing.language.judged(call, outcome(output), s.step, s.mailbox, s.offer)
        if self._full or first:
            s.onlookers.forward(call, output, training=False, measured=self._full)
        if not first:
            if self._draws is not None:
                with s.silence():
                    self._draws.add(call)
            if self._full and call.model is not s.model and call.model not in self._parts:
                self._another(call)
            return
        if not self._full:
            if not s.declared:
                s.probing.passed_over(s.step)
            return
        s.show_batch(call, "evaluation")
        lively = self._lively()
        self._parts.add(call.model)
        with s.silence():
            turns = max(1, len(s.optimizers))
            s.probing.on_evaluation(call, s.step, lively, s.declared, turns, lambda seen: self._take(seen, call))

    def _lively(self) -> tuple[str, ...]:
        """The modules in train mode that behave otherwise in it."""
        towers = self._state.towers
        return tuple(name for tower in towers.modules for name in towers.lively(tower))

    def _fell_back(self, call: Call) -> None:
        """The evaluation goes on in train mode. Does that make a difference?"""
        s = self._state
        lively = self._lively()
        if lively and call.repeatable:
            with s.silence():
                gap = mode_gap(call)
            s.offer(EvaluationSeen(s.step, s.declared, lively, mode_gap=gap, relapsed=True))

    def _afterwards(self, call: Call) -> None:
        """Another line asks the model, in train mode, behind an evaluation: if training is over, it is one as well."""
        s = self._state
        if self._late is not None and self._late[1] == s.forwards:
            self._late[0].add(call)
        elif not s.declared and self._relapse.elsewhere(call) and (lively := self._lively()) and call.repeatable:
            with s.silence():
                gap = mode_gap(call)
            seen = EvaluationSeen(s.step, False, lively, mode_gap=gap, imitates=s.imitates)
            self._late = Draws(seen, call), s.forwards

    def close(self) -> None:
        """The run is over, and no training came any more."""
        late, self._late = self._late, None
        if late is not None and late[1] == self._state.forwards and not (late[0].meant() or late[0].again()):
            self._state.offer(late[0].seen)

    def _another(self, call: Call) -> None:
        """Another part is asked, which has a mode of its own."""
        s = self._state
        self._parts.add(call.model)
        names, inside = dict(s.model.named_modules()), set(call.model.modules())
        lively = tuple(name for name in self._lively() if names.get(name) in inside)
        if lively and call.repeatable and s.probing.wants("EvaluationSeen"):
            with s.silence():
                gap = mode_gap(call)
            self._take(EvaluationSeen(s.step, s.declared, lively, since=self._since, mode_gap=gap), call)

    def _take(self, seen: Evidence, call: Call) -> None:
        """What the first forward shows; dropout that may be on for many draws is judged when the evaluation is over."""
        if isinstance(seen, EvaluationSeen):
            seen = replace(seen, imitates=self._state.imitates)
            if Draws.may_be(seen, call.model):
                self._draws = Draws(seen, call)
                return
        self._state.offer(seen)

    def _begin(self, training: bool) -> None:
        """A round begins. One in another mode than all before, after training for one, is looked at, come what may."""
        s = self._state
        self._judge_draws()
        self._relapse, self._parts = Relapse(), set()
        s.evaluated, habit = True, s.habit(self._last) and not s.declared
        self._since = -(-(s.step - self._last) // max(1, len(s.optimizers))) if self._rounds else None
        self._rounds, self._last = self._rounds + 1, s.step
        self._full = self._rounds <= FIRST or training not in self._modes or (s.pace.affords and not habit)
        self._modes |= {training} if self._full else set()

    def end(self) -> None:
        """No more batches belong to the evaluation that was running, if any."""
        s = self._state
        self._judge_draws()
        s.probing.language.round_over(s.step, s.mailbox, s.offer)
        if (s.evaluated or s.asked) and s.audience is not None:
            s.audience.over(s)
        s.asked = False

    def _judge_draws(self) -> None:
        draws, self._draws = self._draws, None
        if draws is not None and not draws.meant():
            self._state.offer(draws.seen)
