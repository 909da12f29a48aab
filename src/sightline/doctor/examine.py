"""The walk: every part of a run looked at, in the order in which a person would."""

from __future__ import annotations

from sightline.doctor.diagnosis import Cause, Diagnosis, Examination, Look, Severity
from sightline.doctor.ending import how_it_ended
from sightline.doctor.inside import look_at_attention, look_at_units
from sightline.doctor.layers import look_at_layers
from sightline.doctor.loss import look_at_loss
from sightline.doctor.record import Record
from sightline.doctor.scale import look_at_scale
from sightline.doctor.towers import look_at_towers
from sightline.doctor.updates import look_at_updates
from sightline.report.format import plural
from sightline.report.values import CheckSeen

LOOKS = (
    how_it_ended,
    look_at_loss,
    look_at_scale,
    look_at_towers,
    look_at_layers,
    look_at_updates,
    look_at_attention,
    look_at_units,
)


def examine(record: Record) -> Examination:
    """Look at everything."""
    looks = [look(record) for look in LOOKS]
    return Examination((*looks, what_the_guard_said(record)), record.notes)


def what_the_guard_said(record: Record) -> Look:
    """What the guard found while the run trained."""
    guard = record.guard
    if not guard.recorded:
        off = record.recipe is not None and not record.recipe.guard.on
        return Look("guard", "the guard was off (guard.on)" if off else "not recorded", recorded=False)
    told = f"{plural(len(guard.passed), 'check')} passed, {len(guard.unseen)} could not see"
    return Look("guard", told, tuple(_finding(group[0]) for group in guard.found))


def _finding(one: CheckSeen) -> Diagnosis:
    severity: Severity = "error" if one.severity == "error" else "warning" if one.severity == "warning" else "note"
    cause = Cause("shown", f"the guard proved it ({one.code} {one.check}; `sightline explain {one.code}`)", one.fix)
    return Diagnosis(one.check, severity, one.text, (cause,), "", one.step, dict(one.evidence))
