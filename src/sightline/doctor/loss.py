"""The loss: is it a number, did it leave for good, did it jump, and at which steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from sightline.doctor.diagnosis import Cause, Diagnosis, Likelihood, Look, Severity, Spot
from sightline.doctor.record import Record, StageSeen
from sightline.guard.evidence.trends import FEWEST, LASTS, WINDOW, robust_z
from sightline.report.format import number
from sightline.report.values import StepPoint

ABOUT = "loss"
PARTS = 10  # of a stage whose medians are compared
FEW = 12  # losses, below which no level is told from noise
BROKEN, NATS = 1.5, 0.5  # times the lowest level, and above it: harder data and moving weights stay below
WORSE = 2.0  # times where it began, for some steps: confidently wrong, which no data explain (check L6)
JUMP, RISE = 8.0, 1.3  # robust deviations and times what was usual: the guard's own limit for a jump, and not a flutter
SHARE = 0.1  # of the first level: at the end of a run losses are so small that one hard row is many deviations
PULL = 3.0  # deviations of the gradient norm: a batch that is only hard does not pull harder
MANY = 3  # jumps: one or two are a part of life
SHOWN = 5  # jumps whose rows are told
RISING = 10.0  # times its median: a gradient norm before the loss left the numbers
LOWER = 10.0  # how much lower at least a rate that broke the run is to be
USUAL = 1e-3  # update over weights (CS231n, "Ratio of weights:updates")


def look_at_loss(record: Record) -> Look:
    """Every stage's losses, one by one where they were written down."""
    if not any(stage.losses for stage in record.stages):
        return Look(ABOUT, "no step was logged", recorded=False)
    found, told = [], []
    for stage in record.stages:
        values = [point.loss for point in stage.losses if point.loss is not None]
        if not values:
            continue
        one = _not_finite(record, stage) or _broken_out(stage) or _thrown(record, stage) or _jumps(stage)
        found += [one] if one else []
        told.append(f"{stage.name}: {number(values[0])} to {number(values[-1])}")
    return Look(ABOUT, "; ".join(told), tuple(found))


def _not_finite(record: Record, stage: StageSeen) -> Diagnosis | None:
    place = next((i for i, p in enumerate(stage.losses) if p.loss is None or not math.isfinite(p.loss)), None)
    if place is None:
        return None
    point, before = stage.losses[place], stage.losses[max(0, place - WINDOW) : place]
    norms = [p.grad_norm for p in before if p.grad_norm is not None and math.isfinite(p.grad_norm)]
    causes = list(step_causes(stage, point.own, rising=bool(norms) and norms[-1] > RISING * median(norms)))
    if record.facts.settings.get("precision") == "fp16":
        causes.insert(
            0,
            Cause(
                "likely", "fp16 overflows at 65,504, in the forward pass where no loss scale helps", "precision=bf16"
            ),
        )
    causes.append(Cause("possible", "the rows of this step", "look at them (above); data.<name>.where leaves rows out"))
    seen: dict[str, object] = {"last finite loss": next((p.loss for p in reversed(before) if p.loss is not None), None)}
    seen |= {"gradient norms before": [float(f"{norm:.3g}") for norm in norms[-5:]]} if norms else {}
    says = f"the loss is no number from step {point.own:,} of stage {stage.name} on"
    return Diagnosis(
        "loss-not-finite", "error", says, tuple(causes), stage.name, point.step, seen, _spots(stage, [point])
    )


def _broken_out(stage: StageSeen) -> Diagnosis | None:
    """A level that is left for good: the last one far above the lowest before it."""
    losses = [p.loss for p in stage.losses if p.loss is not None]
    if len(losses) < FEW:
        return None
    size = max(LASTS, len(losses) // PARTS)
    levels = [median(losses[start : start + size]) for start in range(0, len(losses) - size + 1, size)]
    lowest, last = min(levels), median(losses[-size:])
    if last <= BROKEN * lowest or last - lowest <= NATS:
        return None
    place = _leaves(losses, lowest, last)
    point = stage.losses[place]
    causes = list(step_causes(stage, point.own, rising=True))
    causes.append(Cause("possible", "the rows of this step", "look at them (above); data.<name>.where leaves rows out"))
    seen = {"lowest level": lowest, "last level": last}
    says = f"the loss of stage {stage.name} leaves {number(lowest)} at step {point.own:,} and ends at {number(last)}"
    return Diagnosis(
        "loss-explodes", "error", says, tuple(causes), stage.name, point.step, seen, _spots(stage, [point])
    )


def _thrown(record: Record, stage: StageSeen) -> Diagnosis | None:
    """The first steps throw the loss far above where it began; it may come back, in time that is lost."""
    losses = [p.loss for p in stage.losses if p.loss is not None]
    fusion = record.recipe.model.pair.fusion if record.recipe and record.recipe.model.pair else None
    if len(losses) < FEW or (fusion and fusion.queue):  # a queue that fills makes the question harder
        return None
    limit = max(WORSE * losses[0], losses[0] + NATS)
    places = range(1, len(losses) - LASTS + 1)
    place = next((i for i in places if all(loss > limit for loss in losses[i : i + LASTS])), None)
    if place is None:
        return None
    point, worst, last = stage.losses[place], max(losses), median(losses[-LASTS:])
    back = last <= losses[0]
    says = f"the loss of stage {stage.name} is thrown up at step {point.own:,}: {number(losses[0])} to {number(worst)}"
    says += f", and comes back to {number(last)}" if back else f", and ends at {number(last)}"
    causes = step_causes(stage, point.own, rising=True)
    seen = {"first loss": losses[0], "highest": worst, "last": last}
    severity: Severity = "warning" if back else "error"
    return Diagnosis("loss-explodes", severity, says, causes, stage.name, point.step, seen)


def _leaves(losses: Sequence[float], lowest: float, last: float) -> int:
    """Where the way up begins: behind the last loss that is nearer to the lowest level than to the last."""
    middle = (lowest + last) / 2
    return min(len(losses) - 1, max((i + 1 for i, loss in enumerate(losses) if loss < middle), default=0))


def _jumps(stage: StageSeen) -> Diagnosis | None:
    points = [p for p in stage.losses if p.loss is not None]
    if len(points) < FEWEST + 1 or not (found := jumps(points)):
        return None
    # A logged mean's gradient norm is that of its last step, and says nothing of the others.
    pulled = [p for p in found if stage.losses is not stage.steps or _pulls(p, points)]
    first, worst = found[0], max(found, key=lambda p: p.loss or 0.0)
    times = "once" if len(found) == 1 else f"{len(found)} times"
    says = f"the loss of stage {stage.name} jumps {times}, to {number(worst.loss)} at step {worst.own:,}"
    says += "" if pulled else "; the gradients of these steps are no longer than others: the rows are hard, or wrong"
    rows = Cause("likely", "the rows of these steps", "look at them (above); data.<name>.where leaves rows out")
    seen: dict[str, object] = {"steps": [p.own for p in found], "losses": [float(f"{p.loss:.3g}") for p in found]}
    if stage.losses is stage.steps:
        seen["gradient norms"] = [float(f"{p.grad_norm:.3g}") for p in found if p.grad_norm is not None]
    shown = sorted(sorted(found, key=lambda p: p.loss or 0.0)[-SHOWN:], key=lambda p: p.step)
    return Diagnosis(
        "loss-jumps",
        "warning" if len(pulled) >= MANY else "note",
        says,
        (rows, *(step_causes(stage, first.own, rising=False) if pulled else ())),
        stage.name,
        first.step,
        seen,
        _spots(stage, shown),
    )


def jumps(points: Sequence[StepPoint]) -> list[StepPoint]:
    """Points whose loss lies far above those before."""
    losses = [p.loss or 0.0 for p in points]
    floor = SHARE * median(losses[:FEWEST])
    found = []
    for place in range(FEWEST, len(points)):
        before = losses[max(0, place - WINDOW) : place]
        loss, usual = losses[place], median(before)
        if loss > RISE * usual and loss - usual > floor and robust_z(loss, before) > JUMP:
            found.append(points[place])
    return found


def _pulls(point: StepPoint, points: Sequence[StepPoint]) -> bool:
    """Whether its gradient is far longer than those before: it moves the weights, and is not only hard."""
    place = points.index(point)
    norms = [p.grad_norm for p in points[max(0, place - WINDOW) : place] if p.grad_norm is not None]
    return bool(point.grad_norm is not None and norms and robust_z(point.grad_norm, norms) > PULL)


def step_causes(stage: StageSeen, own: int, *, rising: bool) -> tuple[Cause, ...]:
    """Why a step may throw the weights too far, and what to set, with the values that the recipe has."""
    spec = stage.spec
    causes = [too_fast(stage, "shown" if rising and _replaced(stage) else "likely" if rising else "possible")]
    if spec is None:
        return tuple(causes)
    warmup = spec.schedule.warmup
    steps = warmup if warmup >= 1 else warmup * (stage.planned or 0)
    if steps < own * 0.01 or (own <= max(50, 0.1 * (stage.planned or 0)) and steps < own):
        likelihood: Likelihood = "likely" if steps == 0 and rising else "possible"
        causes.append(Cause(likelihood, "the warm-up is short", f"{stage.key('schedule.warmup')}=0.1"))
    if spec.optimizer.clip is None:
        causes.append(Cause("likely", "gradients are not clipped", f"{stage.key('optimizer.clip')}=1.0"))
    if spec.optimizer.kind == "adamw" and spec.optimizer.betas[1] > 0.99:
        low = f"{stage.key('optimizer.betas')}=[{spec.optimizer.betas[0]:g}, 0.95]"
        causes.append(Cause("possible", "Adam's second moment follows a sudden gradient too slowly", low))
    return tuple(causes)


def too_fast(stage: StageSeen, likelihood: Likelihood) -> Cause:
    """The rate is too high, and the lower one at which the fastest tower's largest step would be of the usual size."""
    says, lower = "the learning rate is too high", 1 / LOWER
    ratios = {tower: highest_ratio(stage, tower) for tower in stage.towers}
    if fastest := max(ratios, key=lambda tower: ratios[tower], default=None):
        says += f": a step changed up to {ratios[fastest]:.2g} of the weights of {fastest} ({USUAL:g} is usual)"
        lower = min(lower, USUAL / ratios[fastest]) if ratios[fastest] else lower
    if stage.spec is None:
        return Cause(likelihood, says, f"a lower {stage.key('lr')}")
    rate = stage.spec.lr
    told = _one_digit(rate * lower) if isinstance(rate, float) else None
    by_tower = [f"{tower}: {_one_digit(own * lower)}" for tower, own in rate.items()] if isinstance(rate, dict) else []
    return Cause(likelihood, says, f"{stage.key('lr')}={told or '{' + ', '.join(by_tower) + '}'}")


def _one_digit(value: float) -> str:
    return f"{float(f'{value:.0e}'):g}"


def highest_ratio(stage: StageSeen, tower: str) -> float:
    """The highest update-to-weight ratio of `tower` that was logged."""
    return max(
        (r for p in stage.points if (r := p.update_ratio.get(tower)) is not None and math.isfinite(r)), default=0.0
    )


def _replaced(stage: StageSeen) -> bool:
    """Whether some tower's steps were of a size that weights do not survive."""
    return any(highest_ratio(stage, tower) > 0.1 for tower in stage.towers)


def _spots(stage: StageSeen, points: Sequence[StepPoint]) -> tuple[Spot, ...]:
    """The steps; where only means were logged, all those that a mean is of."""
    if stage.losses is stage.steps:
        return tuple(Spot(p.stage, p.own, p.own, p.step) for p in points)
    ends = [0, *(p.own for p in stage.losses)]
    return tuple(Spot(p.stage, max(end for end in ends if end < p.own) + 1, p.own, p.step) for p in points)
