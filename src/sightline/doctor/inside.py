"""What happens inside blocks: attention that looks at one place alone, and units that say nothing."""

from __future__ import annotations

from sightline.doctor.diagnosis import Cause, Diagnosis, Look
from sightline.doctor.layers import not_recorded
from sightline.doctor.record import Record, StageSeen
from sightline.report.values import LayerPoint

ATTENTION, UNITS = "spread of attention", "dead units"
LAST = 2  # records in a row: one micro-batch may be odd
COLLAPSED = 0.02  # of the largest entropy, over all heads of a block: single heads look at one place in healthy models
SPREAD = 0.3  # what it had before: attention that was sharp from the start (a trained tower) is not collapsed
DEAD = 0.5  # more than half of the units (TheDeepChecker, arXiv 2204.00480)


def look_at_attention(record: Record) -> Look:
    """Did the attention of a block collapse (Zhai et al. 2023, arXiv 2303.06296)?"""
    stages = [stage for stage in record.stages if any(point.attention_entropy for point in stage.layers)]
    if not stages:
        return Look(ATTENTION, not_recorded(record), recorded=False)
    found, told = [], []
    for stage in stages:
        values = list(stage.layers[-1].attention_entropy.values())
        bad = [name for name in stage.layers[-1].attention_entropy if _collapsed(stage.layers, name)]
        found += [_collapse(stage, bad)] if bad else []
        told.append(
            f"{stage.name}: {min(values):.2f} to {max(values):.2f} of the largest entropy" if values else stage.name
        )
    return Look(ATTENTION, "at the end of " + "; ".join(told), tuple(found))


def _collapsed(points: tuple[LayerPoint, ...], name: str) -> bool:
    seen = [value for point in points if (value := point.attention_entropy.get(name)) is not None]
    return len(seen) > LAST and max(seen[:-LAST]) > SPREAD and all(value < COLLAPSED for value in seen[-LAST:])


def _collapse(stage: StageSeen, bad: list[str]) -> Diagnosis:
    towers = list(dict.fromkeys(name.partition(".")[0] for name in bad))
    seen = {name: [p.attention_entropy[name] for p in stage.layers if name in p.attention_entropy][-4:] for name in bad}
    says = f"attention collapses in stage {stage.name}: {', '.join(bad[:4])} look at one place alone"
    grown = "its logits grew until softmax picks one place: the rate is too high for them"
    slower = f"a lower {stage.key('lr')} of {' and '.join(towers)}, a longer {stage.key('schedule.warmup')}"
    causes = [Cause("likely", grown, slower)]
    if "connector" in towers:
        held = "model.compose.connector.layers.qk_norm=true"
        causes.append(Cause("likely", "nothing holds the logits of the connector's attention", held))
    step = stage.layers[-LAST].step
    return Diagnosis("attention-collapses", "warning", says, tuple(causes), stage.name, step, seen)


def look_at_units(record: Record) -> Look:
    """Do units say nothing, whatever they are shown?"""
    stages = [stage for stage in record.stages if any(point.dead_units for point in stage.layers)]
    if not stages:
        return Look(UNITS, not_recorded(record), recorded=False)
    found, told = [], []
    for stage in stages:
        last = stage.layers[-1].dead_units
        bad = [
            n
            for n in last
            if len(stage.layers) >= LAST and all(p.dead_units.get(n, 0.0) > DEAD for p in stage.layers[-LAST:])
        ]
        found += [_dead(stage, bad)] if bad else []
        told.append(f"{stage.name}: at most {100 * max(last.values(), default=0.0):.0f} % of a block")
    return Look(UNITS, "at the end of " + "; ".join(told), tuple(found))


def _dead(stage: StageSeen, bad: list[str]) -> Diagnosis:
    last, first = stage.layers[-1].dead_units, stage.layers[0].dead_units
    at_first = all(first.get(name, 0.0) > DEAD for name in bad)
    shares = ", ".join(f"{name} {100 * last[name]:.0f} %" for name in bad[:4])
    slower = f"a lower {stage.key('lr')}, a longer {stage.key('schedule.warmup')}"
    start = "see the tower's source"
    if all(name.startswith("connector") for name in bad):
        start = "model.compose.connector.start.weights=xavier (of cross-attention), or see its source"
    steps = "steps that were too large pushed them where no gradient leads back"
    causes = (
        Cause("possible" if at_first else "likely", steps, slower),
        Cause("likely" if at_first else "possible", "they were dead from the start: built or loaded wrongly", start),
    )
    seen = {name: [point.dead_units.get(name) for point in stage.layers][-4:] for name in bad}
    says = f"units are dead in stage {stage.name}: {shares}"
    return Diagnosis("dead-units", "warning", says, causes, stage.name, stage.layers[-LAST].step, seen)
