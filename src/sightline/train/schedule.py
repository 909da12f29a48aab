"""The learning rate as a pure function of the step, so that resuming needs nothing but the step."""

from __future__ import annotations

import math

from sightline.recipe.schema import Schedule, Stage


def warmup_steps(schedule: Schedule, total: int) -> int:
    """Steps of linear warm-up: a fraction of `total` (rounded up) where `warmup` is a float, else the count."""
    return _count(schedule.warmup, total)


def factor(schedule: Schedule, step: int, total: int, place: int = 0) -> float:
    """The rate of step `step` (0-based, of `total`) as a fraction of its peak.

    Warm-up rises from 1/warmup to 1 and its last step is the peak; cosine and linear then fall towards `floor`, which
    a step after the last would reach. So no step is wasted at rate 0, as transformers' schedules waste their first.

    Args:
        place: how many layers of the tower warm up before this one, where `schedule.layers` lets them one by one. Its
            warm-up lasts place x layers.steps longer; the peak that it rises to meanwhile falls as everybody's does.
    """
    warmup = warmup_steps(schedule, total)
    later = schedule.layers.steps * place if schedule.layers else 0
    own = min(1.0, (step + 1) / (warmup + later)) if warmup + later else 1.0
    return own * _after_warmup(schedule, step, warmup, total)


def _after_warmup(schedule: Schedule, step: int, warmup: int, total: int) -> float:
    if step < warmup:
        return 1.0
    if schedule.kind == "constant":
        return 1.0
    progress = (step + 1 - warmup) / (total + 1 - warmup)
    fall = 0.5 * (1 + math.cos(math.pi * progress)) if schedule.kind == "cosine" else 1 - progress
    return schedule.floor + (1 - schedule.floor) * fall


def dropout_share(stage: Stage, step: int, total: int) -> float:
    """Dropout of step `step` as a share of its own rate: linear from 0 at the first step to 1 after the warm-up."""
    warmup = _count(stage.dropout_warmup, total)
    return min(1.0, step / warmup) if warmup else 1.0


def _count(told: float | int, total: int) -> int:
    return math.ceil(told * total) if isinstance(told, float) else min(told, total)
