"""Gradients within a tower: do they fade or stop on their way from block to block, do steps replace a layer?"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from statistics import median

from sightline.doctor.diagnosis import Cause, Diagnosis, Look
from sightline.doctor.loss import too_fast
from sightline.doctor.record import Record, StageSeen
from sightline.report.values import LayerPoint

ABOUT = "gradients, layer by layer"
FEW = 3  # records: one micro-batch may have little to say to a layer
APART = 1e3  # three orders of magnitude between blocks of one tower, as between towers
CLOSING = 0.67  # a share that grows is a gate that opens
REPLACED, OFTEN = 0.5, 0.25  # of a layer's weights in one step, in such a part of the records


def look_at_layers(record: Record) -> Look:
    """Do gradients fade from block to block of a tower, or stop between two?"""
    stages = [stage for stage in record.stages if stage.layers]
    if not stages:
        return Look(ABOUT, not_recorded(record), recorded=False)
    found, told = [], []
    for stage in stages:
        for tower in stage.towers:
            found += [one for one in (_faded(stage, tower), _cut(stage, tower), _replaced(stage, tower)) if one]
        told.append(f"{stage.name}: {len(stage.layers[-1].grad_norm)} layers, {len(stage.layers)} times")
    return Look(ABOUT, "; ".join(told), tuple(found))


def not_recorded(record: Record) -> str:
    """Why a run may hold nothing on its layers."""
    if record.recipe is not None and record.recipe.log_layers is not None:
        return "not recorded: by an older version, or in a layout that does not show its layers"
    return "not recorded: set log_layers=50 in the recipe"


def _of_tower(values: Mapping[str, float | None], tower: str) -> dict[str, float | None]:
    return {name: value for name, value in values.items() if name.partition(".")[0] == tower}


def _shares(point: LayerPoint, tower: str) -> dict[str, float]:
    """Each block's gradient over that of the block with the largest. What is no block is of another kind."""
    blocks = {n: v or 0.0 for n, v in _of_tower(point.grad_norm, tower).items() if n.rpartition(".")[2].isdigit()}
    largest = max(blocks.values(), default=0.0)
    if not largest or not all(map(isfinite, blocks.values())):  # an overflow, which the scaler skips
        return {}
    return {name: value / largest for name, value in blocks.items()}


def _faded(stage: StageSeen, tower: str) -> Diagnosis | None:
    """The gradient of one block is next to nothing beside another's of the same tower, and does not grow."""
    last = [_shares(point, tower) for point in stage.layers[-FEW:]]
    if len(last) < FEW or any(len(each) < 2 or min(each.values()) == 0.0 for each in last):
        return None
    weak, strong = min(last[-1], key=lambda n: last[-1][n]), max(last[-1], key=lambda n: last[-1][n])
    late = [each.get(weak, 1.0) for each in last]
    start = _shares(stage.layers[0], tower).get(weak, 0.0)
    if max(late) > 1 / APART or median(late) * CLOSING > start:
        return None
    says = f"gradients vanish within {tower} in stage {stage.name}: {weak} has {late[-1]:.1g} of what {strong} has"
    pre = f"a {tower} tower with norms before its branches, and activations that do not saturate"
    pre = "model.compose.connector.layers={place: pre, norm: rmsnorm}" if tower == "connector" else pre
    from_below = f"{stage.key('schedule.layers')}={{steps: 500, first: bottom}}"
    causes = (
        Cause("likely", "norms behind the sums, or activations that saturate: each block shrinks the gradient", pre),
        Cause("possible", "the lowest blocks learn too late to pass anything on", from_below),
    )
    seen = {f"share of {name}": value for name, value in last[-1].items()}
    return Diagnosis("gradients-vanish", "warning", says, causes, stage.name, stage.layers[-FEW].step, seen)


def _cut(stage: StageSeen, tower: str) -> Diagnosis | None:
    """Within a tower that has a gradient, some layers that are to learn get none."""
    last = [_of_tower(point.grad_norm, tower) for point in stage.layers[-FEW:]]
    cut = [name for name in last[-1] if all(not each.get(name) for each in last)]
    if len(last) < FEW or not cut or len(cut) == len(last[-1]):
        return None  # all of it: that is told of the tower
    how = "no gradient" if any(last[-1][name] is None for name in cut) else "a gradient of 0"
    names = ", ".join(cut[:4]) + (f" and {len(cut) - 4} more" if len(cut) > 4 else "")
    says = f"blocked within {tower} in stage {stage.name}: {names} get {how}, other layers of it do"
    freeze = f"freeze them by {stage.key(f'learn.{tower}')}, or see model.compose.{tower}"
    causes = (
        Cause("likely", "the forward pass goes around them", freeze),
        Cause("likely", "something behind them has no graph: `detach()`, `no_grad`", "mend the code there"),
    )
    step = stage.layers[-FEW].step
    return Diagnosis("blocked-layers", "warning", says, causes, stage.name, step, {"layers": cut})


def _replaced(stage: StageSeen, tower: str) -> Diagnosis | None:
    """A layer of which steps replace a large part, again and again."""
    seen = [_of_tower(point.update_ratio, tower) for point in stage.layers]
    often = {name: sum((each.get(name) or 0.0) >= REPLACED for each in seen) for name in seen[-1]}
    bad = [name for name, times in often.items() if times >= max(FEW, OFTEN * len(seen))]
    if not bad:
        return None
    worst = max(bad, key=lambda name: max(each.get(name) or 0.0 for each in seen))
    most = max(each.get(worst) or 0.0 for each in seen)
    says = f"steps replace weights of {tower} in stage {stage.name}: {worst} changes by up to {most:.1g} of itself"
    causes = (too_fast(stage, "likely"),)
    return Diagnosis("layers-replaced", "warning", says, causes, stage.name, stage.layers[0].step, {"records": often})
