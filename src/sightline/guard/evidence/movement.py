"""What optimizer steps moved and what not, told from the measured ones."""

from __future__ import annotations

from collections.abc import Sequence

from sightline.guard.evidence.learning import StillSeen
from sightline.guard.evidence.steps import ParameterSeen, StepSeen

DECAY = 0.11  # of rate times weight: the largest weight decay in use is 0.1; any other update of Adam's is far larger
SUPERVISED = 1  # positions at which the loss pulls at the outputs: so there was something to pass on
LONG = 16  # steps: optimizers that take turns have had theirs
LOOKS = 5  # measured steps without any gradient: more than warm-ups and skipped batches leave


def cleared(measured: Sequence[StepSeen]) -> bool:
    """Whether each step's loss pulled at the outputs, and all that the optimizer held had a gradient of exactly 0."""
    held = [p for step in measured for p in step.parameters if p.trainable and p.optimized]
    pulled = all(any(one.supervised >= SUPERVISED for one in step.micro) for step in measured)
    if not held or not pulled or any(p.grad_norm for p in held) or all(p.grad_norm is None for p in held):
        return False
    return all(not p.moved or _decayed(p) for p in held)


def opposed(measured: Sequence[StepSeen]) -> str:
    """What else leaves gradients at 0: several parameters that are 0 themselves, if they are factors of a product."""
    zero = [p.name for p in measured[-1].parameters if p.trainable and p.optimized and not p.weight_norm]
    if len(zero) < 2:
        return ""
    two = f"if two of the {len(zero)} parameters that are all 0 are factors of one product (gate and projection, say)"
    return f"{two}, initialise one of them away from 0; else "


def _decayed(p: ParameterSeen) -> bool:
    return p.update_norm <= DECAY * (p.learning_rate or 0.0) * p.weight_norm


def ungraded(measured: Sequence[StepSeen]) -> bool:
    """Whether the run has stepped for a while, and no parameter ever had a gradient, or moved by other means."""
    if len(measured) < LOOKS or measured[-1].step < LONG:
        return False
    seen = [p for step in measured for p in step.parameters]
    held = any(p.optimized and p.trainable and p.learning_rate for p in measured[-1].parameters)
    return held and all(p.grad_norm is None and not p.moved for p in seen)


def stopped(still: StillSeen | None) -> bool:
    """Whether steps at a rate above 0 write to nothing, although there are gradients or backward passes."""
    if still is None or not still.learning_rate > 0:
        return False
    return still.grad_norm > 0 if still.graded else still.backwards > still.heard // 2
