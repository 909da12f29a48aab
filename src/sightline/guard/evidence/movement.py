"""What optimizer steps moved and what not, told from the measured ones."""

from __future__ import annotations

from collections.abc import Sequence

from sightline.guard.evidence.learning import HeadSeen, StillSeen
from sightline.guard.evidence.origin import new
from sightline.guard.evidence.setup import Setup
from sightline.guard.evidence.steps import History, ParameterSeen, StepSeen

DECAY = 0.11  # of rate times weight: the largest weight decay in use is 0.1; any other update of Adam's is far larger
SUPERVISED = 1  # positions at which the loss pulls at the outputs: so there was something to pass on
LONG = 16  # steps: optimizers that take turns have had theirs


def cleared(measured: Sequence[StepSeen]) -> bool:
    """Whether each step's loss pulled at the outputs, and all that the optimizer held had a gradient of exactly 0."""
    held = [p for step in measured for p in step.parameters if p.trainable and p.optimized]
    pulled = all(any(one.supervised >= SUPERVISED for one in step.micro) for step in measured)
    if not held or not pulled or any(p.grad_norm for p in held) or all(p.grad_norm is None for p in held):
        return False
    return all(not p.moved or _decayed(p) for p in held)


def _decayed(p: ParameterSeen) -> bool:
    return p.update_norm <= DECAY * (p.learning_rate or 0.0) * p.weight_norm


def stopped(still: StillSeen | None) -> bool:
    """Whether steps at a rate above 0 write to nothing, although there are gradients or backward passes."""
    if still is None or not still.learning_rate > 0:
        return False
    return still.grad_norm > 0 if still.graded else still.backwards > still.heard // 2


def idle_head(head: HeadSeen | None, history: History | None, setup: Setup | None) -> str | None:
    """Why an output layer that is as an init leaves it never moves while other parameters do; None where that is fine.

    "frozen": only scales and shifts of normalisations learn, or the layers in front of it were trained before.
    "left out": it has gradients, and no optimizer holds it.
    """
    if head is None or history is None or not new(head):
        return None
    measured = history.measured
    weight = [p for step in measured for p in step.parameters if p.name == head.name]
    others = any(p.moved for step in measured for p in step.parameters if p.name != head.name)
    if not weight or not others or any(p.moved for p in weight):
        return None
    if not head.learns and not weight[-1].trainable:
        return "frozen" if head.only_norms or head.trained_body else None
    towers = setup.towers.values() if setup else ()
    out = all(p.trainable and p.grad_norm and not p.optimized for p in weight)
    out = out and sum(t.trainable - t.optimized for t in towers) >= weight[0].numel
    return "left out" if out and history.step >= LONG else None
