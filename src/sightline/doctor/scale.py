"""The history of fp16's loss scale, and of the steps that an overflow made the scaler skip."""

from __future__ import annotations

from sightline.doctor.diagnosis import Cause, Diagnosis, Look
from sightline.doctor.loss import step_causes
from sightline.doctor.record import Record, StageSeen
from sightline.report.format import plural

ABOUT = "loss scale"
SETTLED = 2.0**7  # a healthy scale lies between 2^13 and 2^16; below this, small gradients are lost
FALLS = 2.0**6  # from its highest: six overflows that nothing made good
OFTEN = 0.05  # of the steps, after the scale has found its place; one in 2,000 is usual
FINDING = 50  # steps in which a scale that starts too high comes down
FEW = 20  # steps


def look_at_scale(record: Record) -> Look:
    """Did the scale collapse, or do steps keep overflowing?"""
    stages = [stage for stage in record.stages if any(point.loss_scale for point in stage.points)]
    if not stages:
        precision = record.facts.settings.get("precision", "")
        needless = precision in ("bf16", "fp32", "tf32")
        return Look(ABOUT, f"none: {precision} needs none" if needless else "not recorded", recorded=needless)
    found, told = [], []
    for stage in stages:
        scales = [(p.own or 0, p.step, p.loss_scale) for p in stage.points if p.loss_scale is not None]
        skipped = sum(point.skipped or 0 for point in stage.points)
        told.append(f"{stage.name}: {scales[0][2]:g} to {scales[-1][2]:.3g}, {plural(skipped, 'overflow')}")
        found += [one for one in (_collapsed(stage, scales) or _overflowing(stage),) if one]
    return Look(ABOUT, "; ".join(told), tuple(found))


def _collapsed(stage: StageSeen, scales: list[tuple[int, int, float]]) -> Diagnosis | None:
    highest, last = max(scale for *_, scale in scales), scales[-1][2]
    if last >= SETTLED or highest / max(last, 1e-30) < FALLS:
        return None
    own, step, _ = next(each for each in scales if each[2] < SETTLED)
    says = f"the loss scale collapses in stage {stage.name}: from {highest:g} to {last:.3g}"
    seen = {"highest": highest, "last": last, "halvings": [scale for *_, scale in scales][-8:]}
    return Diagnosis("loss-scale-collapses", "error", says, _causes(stage, own), stage.name, step, seen)


def _overflowing(stage: StageSeen) -> Diagnosis | None:
    points = [p for p in stage.points if (p.own or 0) > FINDING and p.skipped is not None]
    if not points:
        return None
    steps = (points[-1].own or 0) - FINDING
    skipped = sum(point.skipped or 0 for point in points)
    if steps < FEW or skipped <= OFTEN * steps:
        return None
    first = next(point for point in points if point.skipped)
    says = f"{skipped} of {steps} steps of stage {stage.name} overflow and are skipped"
    causes = _causes(stage, first.own or 0)
    return Diagnosis("steps-overflow", "warning", says, causes, stage.name, first.step, {"skipped": skipped})


def _causes(stage: StageSeen, own: int) -> tuple[Cause, ...]:
    overflow = Cause(
        "likely", "activations or gradients leave fp16's range (65,504), whatever the scale", "precision=bf16"
    )
    return (overflow, *step_causes(stage, own, rising=False))
