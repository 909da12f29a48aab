"""Evaluation: forward passes without gradients, or those that the host declares."""

from __future__ import annotations

from typing import Any

from sightline.attach.phases.state import State
from sightline.guard.probes.call import Call, outcome


class Evaluation:
    """Looks at what a host judges its model by."""

    def __init__(self, state: State) -> None:
        self._state = state

    def judged(self, call: Call, output: Any = None) -> None:
        """An evaluation forward. The first after training steps stands for the others, but for scores and padding."""
        s = self._state
        with s.silence():
            s.probing.language.judged(call, outcome(output), s.step, s.mailbox, s.offer)
        s.onlookers.forward(call, output, training=False, measured=True)
        if s.evaluated:
            return
        s.evaluated = True
        s.show_batch(call, "evaluation")
        lively = tuple(name for tower in s.towers.modules for name in s.towers.lively(tower))
        with s.silence():
            s.probing.on_evaluation(call, s.step, lively, s.declared, s.offer)

    def end(self) -> None:
        """No more batches belong to the evaluation that was running, if any."""
        s = self._state
        s.probing.language.round_over(s.step, s.mailbox, s.offer)
