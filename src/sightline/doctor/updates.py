"""How far steps move the weights, tower by tower: too far to keep what was learned, or nowhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from sightline.doctor.diagnosis import Cause, Diagnosis, Look
from sightline.doctor.loss import USUAL
from sightline.doctor.record import Record, StageSeen
from sightline.report.format import scientific
from sightline.report.values import TrainPoint

ABOUT = "size of the updates"
FEW = 3  # logged steps
HIGH, LOW = 3e-2, 1e-6  # medians; healthy is about 1e-3: thirty steps replace the weights, a million change nothing
PEAK = 0.1  # of its highest rate: below, in warm-up and at the end of a schedule, a tower is meant to stand still


def look_at_updates(record: Record) -> Look:
    """How much of its weights a step changes, tower by tower, while the rate is near its peak."""
    found, told = [], []
    for stage in record.stages:
        for tower in stage.towers:
            ratios = _ratios(stage.points, tower)
            if len(ratios) < FEW:
                continue
            middle = median(ratios)
            told.append(f"{stage.name}, {tower}: {scientific(middle)}")
            if (middle > HIGH or middle < LOW) and any(p.grad_norm.get(tower) for p in stage.points):
                found.append(_moved(stage, tower, middle))
    if not told:
        return Look(ABOUT, "fewer than three logged steps near the peak rate", recorded=False)
    return Look(ABOUT, "medians of " + "; ".join(told), tuple(found))


def _ratios(points: Sequence[TrainPoint], tower: str) -> list[float]:
    """Update ratios of `tower` while its rate was near its peak."""
    peak = max((point.lr.get(tower, 0.0) for point in points), default=0.0)
    ratios = [p.update_ratio.get(tower) for p in points if p.lr.get(tower, 0.0) >= PEAK * peak]
    return [ratio for ratio in ratios if ratio is not None and math.isfinite(ratio)]


def _moved(stage: StageSeen, tower: str, middle: float) -> Diagnosis:
    high, told = middle > HIGH, "too much to keep what was learned" if middle > HIGH else "next to nothing"
    key = stage.key(f"lr.{tower}") if stage.spec and isinstance(stage.spec.lr, dict) else stage.key("lr")
    rate = stage.spec.rate_for(tower) if stage.spec else None  # type: ignore[arg-type]
    times = USUAL / middle if middle else math.inf
    better = f"a higher {key}" if not middle else f"{key} {times:.1g} times as high"
    if rate and middle:
        better = f"{key}={float(f'{rate * times:.0e}'):g}"
    causes = [Cause("likely", f"the learning rate of {tower} is too {'high' if high else 'low'}", better)]
    if not high:
        causes.append(Cause("possible", "updates are lost to rounding (`sightline explain P4`)", "precision=fp32"))
    if not high and any(point.skipped for point in stage.points):
        causes.insert(0, Cause("shown", "steps overflow and are skipped: see the loss scale", "precision=bf16"))
    says = f"a step changes {scientific(middle)} of the weights of {tower} in stage {stage.name}: {told}"
    name, step = "updates-too-large" if high else "updates-too-small", stage.points[0].step
    return Diagnosis(name, "warning", says, tuple(causes), stage.name, step, {"median update over weights": middle})
