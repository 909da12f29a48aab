"""Gradients from tower to tower: does one reach every tower that learns, and are they of one order?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from sightline.doctor.diagnosis import Cause, Diagnosis, Look
from sightline.doctor.loss import step_causes
from sightline.doctor.record import Record, StageSeen
from sightline.report.values import LayerPoint, TrainPoint

ABOUT = "gradients, tower by tower"
INWARDS = ("head", "language", "connector", "vision")  # the way a gradient takes
FEW = 3  # logged steps, below which a tower's silence may be chance
LAST = 5  # lines at the end of a stage that are judged
APART = 1e3  # healthy update ratios span 1e-4 to 1e-1, so no one rate serves towers further apart (check P5)
CLOSING = 0.67  # later over earlier: a gate that opens, a projector that warms up (check P5)
GROWTH = 100.0  # a total gradient norm over that of the stage's beginning


def look_at_towers(record: Record) -> Look:
    """Does a gradient reach every tower that learns, and are they of one order?"""
    if not any(stage.towers for stage in record.stages):
        return Look(ABOUT, "no gradient norm was logged", recorded=False)
    found, told = [], []
    for stage in record.stages:
        blocked = _blocked(stage)
        found += [one for one in (blocked or _apart(stage), _grown(stage)) if one]
        medians = {tower: _middle([p.grad_norm.get(tower) for p in stage.points]) for tower in stage.towers}
        told.append(f"{stage.name}: " + ", ".join(f"{tower} {_short(value)}" for tower, value in medians.items()))
    return Look(ABOUT, "medians of " + "; ".join(told), tuple(found))


def _blocked(stage: StageSeen) -> Diagnosis | None:
    """A gradient reaches one tower and not the next, on all of the logged steps or on all of the last ones."""
    points = stage.points
    silent = [tower for tower in stage.towers if len(points) >= FEW and _silent(points, tower)]
    if not silent:
        return None
    tower, *beyond = sorted(silent, key=_depth)
    reached = sorted((each for each in stage.towers if each not in silent and _depth(each) < _depth(tower)), key=_depth)
    boundary = f"{reached[-1]} | {tower}" if reached else tower
    says = f"reaches {reached[-1]} and not {tower}" if reached else f"does not reach {tower}"
    says += f" (nor {' and '.join(beyond)} behind it)" if beyond else ""
    first = next((point for point in points if point.grad_norm.get(tower) == 0.0), points[0])
    seen = {each: _middle([point.grad_norm.get(each) for point in points]) for each in (tower, *reached)}
    return Diagnosis(
        "blocked-boundary",
        "error",
        f"blocked boundary {boundary}: in stage {stage.name} the gradient {says}",
        tuple(_why_blocked(stage, tower, boundary)),
        stage.name,
        first.step,
        {f"median gradient norm of {each}": norm for each, norm in seen.items()} | {"logged steps": len(points)},
    )


def _why_blocked(stage: StageSeen, tower: str, boundary: str) -> list[Cause]:
    causes = []
    pictures = [point.images_per_s for point in stage.points if point.images_per_s is not None]
    if tower != "language" and pictures and not any(pictures):
        causes.append(
            Cause("shown", "no row of this stage shows a picture", f"{stage.key('data')}: rows with pictures")
        )
    if any(point.grad_norm.get(tower) for point in stage.points):
        slower = f"a lower {stage.key('lr')}, a longer {stage.key('schedule.warmup')}"
        causes.append(Cause("likely", "a gradient came at first, so units on the way died", slower))
    graph = f"something at {boundary} has no graph: `detach()`, `no_grad`, a copy, a cast to whole numbers"
    meant = f"mend the code there; or {stage.key(f'learn.{tower}')}=none, if {tower} is not to learn"
    gate = "a gate or a scale between them is 0 and does not open"
    causes.append(Cause("likely", graph, meant))
    causes.append(Cause("possible", gate, f"a higher {stage.key('lr')} of the tower that holds it"))
    return causes


def _depth(tower: str) -> int:
    return INWARDS.index(tower) if tower in INWARDS else len(INWARDS)


def _silent(points: Sequence[TrainPoint], tower: str) -> bool:
    norms = [p.grad_norm.get(tower) for p in points]
    last = norms[-LAST:]
    return all(norm == 0.0 for norm in norms) or (len(last) == LAST and all(norm == 0.0 for norm in last))


def _grown(stage: StageSeen) -> Diagnosis | None:
    """The gradient norm grows a hundredfold, and the loss does not fall for it."""
    norms = [
        (p.step, p.own or 0, p.grad_norm_total)
        for p in stage.points
        if p.grad_norm_total and math.isfinite(p.grad_norm_total)
    ]
    losses = [p.loss for p in stage.points if p.loss is not None and math.isfinite(p.loss)]
    if len(norms) < 2 * LAST or len(losses) < 2 * LAST:
        return None
    first, last = (median(norm for *_, norm in part) for part in (norms[:LAST], norms[-LAST:]))
    if last < GROWTH * first or median(losses[-LAST:]) < median(losses[:LAST]):
        return None
    step, own, _ = next(each for each in norms if each[2] >= GROWTH * first)
    says = f"gradients explode in stage {stage.name}: their norm grows from {_short(first)} to {_short(last)}"
    causes = step_causes(stage, own, rising=True)
    return Diagnosis("gradients-explode", "error", says, causes, stage.name, step, {"from": first, "to": last})


def _apart(stage: StageSeen) -> Diagnosis | None:
    """One tower's gradient against another's, by the smaller of two measures: itself, and over its weights."""
    first, last = stage.points[:LAST], stage.points[-LAST:]
    late = {tower: value for tower in stage.towers if (value := _middle([p.grad_norm.get(tower) for p in last]))}
    if len(stage.points) < LAST or len(late) < 2:
        return None
    strong, weak = max(late, key=lambda t: late[t]), min(late, key=lambda t: late[t])
    now, before = _middle(_ratios(last, strong, weak)), _ratios(first, strong, weak)
    if stage.layers and (start := _over(stage.layers[0], "grad_norm", strong, weak)):
        before.append(start)
    if now is None or not before or now < CLOSING * median(before):
        return None
    if min(now, *before, _relative(stage, strong, weak) or now) < APART:
        return None  # so it is now and then, or it came of learning
    says = f"{strong} and {weak} are out of balance in stage {stage.name}: their gradients are {now:.0e} apart"
    factor = f"a factor where {weak} meets {strong}: features not normalised, scaled twice, a tiny initialisation"
    clip = f"{stage.key('optimizer.clip')}={{{', '.join(f'{tower}: 1.0' for tower in stage.towers)}}}"
    causes = (
        Cause("likely", factor, "find it and take it out (`sightline explain P5`)"),
        Cause("possible", "under one bound for all the strong tower shrinks every step", clip),
    )
    seen = {f"gradient norm of {tower}": late[tower] for tower in (strong, weak)}
    return Diagnosis("towers-out-of-balance", "warning", says, causes, stage.name, first[0].step, seen)


def _ratios(points: Sequence[TrainPoint], strong: str, weak: str) -> list[float]:
    pairs = [(point.grad_norm.get(strong), point.grad_norm.get(weak)) for point in points]
    return [s / w for s, w in pairs if s and w and math.isfinite(s)]


def _relative(stage: StageSeen, strong: str, weak: str) -> float | None:
    """The ratio of gradients over weights, where layers were written down."""
    if not stage.layers:
        return None
    gradients, weights = (_over(stage.layers[-1], kind, strong, weak) for kind in ("grad_norm", "weight_norm"))
    return gradients / weights if gradients and weights else None


def _over(point: LayerPoint, kind: str, strong: str, weak: str) -> float | None:
    one, other = (_tower(point, tower, kind) for tower in (strong, weak))
    return one / other if one and other else None


def _tower(point: LayerPoint, tower: str, kind: str) -> float:
    values = getattr(point, kind).items()
    return math.hypot(*(value for name, value in values if value is not None and name.partition(".")[0] == tower))


def _middle(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return median(known) if known else None


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"
