"""Turns what torch's public hooks see into evidence: forward passes, backward passes and optimizer steps.

The hot loop never waits for the device: what is measured goes through the mailbox and becomes evidence when it has
arrived. What is done in each phase of a step is in `phases/`; this is the one thing that hooks, hosts and listeners
know of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from sightline.attach.phases.backward import Backward
from sightline.attach.phases.evaluation import Evaluation
from sightline.attach.phases.forward import Forward
from sightline.attach.phases.reach import Reach
from sightline.attach.phases.state import State
from sightline.attach.phases.stepping import Stepping
from sightline.attach.probing import Probing
from sightline.attach.setup import Facts
from sightline.attach.standing import Standing
from sightline.attach.towers import Towers
from sightline.guard.evidence import Evidence


class Recorder(State):
    """Records one model: the state of its run, and the phases that a host goes through."""

    def __init__(
        self,
        model: nn.Module,
        towers: Towers,
        facts: Facts,
        probing: Probing,
        offer: Callable[[Evidence], Any],
        *,
        optimizer: Optimizer | None,
        budget: float,
    ) -> None:
        super().__init__(model, towers, facts, probing, offer, optimizer=optimizer, budget=budget)
        standing, self.evaluation = Standing(self.meter), Evaluation(self)
        self.backward = Backward(self, standing, Reach(self))
        self.stepping = Stepping(self, standing)
        self.forward = Forward(self, self.backward, self.stepping, self.evaluation)
        # hooks, and the words of hosts that hear a phase otherwise
        self.before_forward, self.after_forward = self.forward.before, self.forward.after
        self.before_step, self.after_step = self.stepping.before, self.stepping.after
        self.begin, self.trained, self.counted = self.forward.begin, self.forward.trained, self.forward.counted
        self.joined = self.forward.joined
        self.gradients_ready, self.told = self.stepping.gradients_ready, self.stepping.told
        self.flush = self.stepping.flush
        self.judged, self.end_evaluation = self.evaluation.judged, self.evaluation.end
