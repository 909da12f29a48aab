"""The learning rate as a pure function of the step, so that resuming needs nothing but the step."""

from __future__ import annotations

import math

from sightline.recipe.schema import Schedule


def warmup_steps(schedule: Schedule, total: int) -> int:
    """Steps of linear warm-up: a fraction of `total` (rounded up) where `warmup` is a float, else the count."""
    warmup = schedule.warmup
    return math.ceil(warmup * total) if isinstance(warmup, float) else min(warmup, total)


def factor(schedule: Schedule, step: int, total: int) -> float:
    """The rate of step `step` (0-based, of `total`) as a fraction of its peak.

    Warm-up rises from 1/warmup to 1 and its last step is the peak; cosine and linear then fall towards `floor`, which
    a step after the last would reach. So no step is wasted at rate 0, as transformers' schedules waste their first.
    """
    warmup = warmup_steps(schedule, total)
    if step < warmup:
        return (step + 1) / warmup
    if schedule.kind == "constant":
        return 1.0
    progress = (step + 1 - warmup) / (total + 1 - warmup)
    fall = 0.5 * (1 + math.cos(math.pi * progress)) if schedule.kind == "cosine" else 1 - progress
    return schedule.floor + (1 - schedule.floor) * fall
