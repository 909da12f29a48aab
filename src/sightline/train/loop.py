"""The training loop of one stage, from top to bottom."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from sightline.errors import UserError
from sightline.train import checkpoint
from sightline.train.checkpoint import Learner, Position
from sightline.train.clock import Clock
from sightline.train.directory import RunDirectory
from sightline.train.feed import steps
from sightline.train.groups import parameters_by_tower, rates, set_rates
from sightline.train.guarded import StageGuard
from sightline.train.interrupt import Interrupts
from sightline.train.layers import LayersSeen
from sightline.train.measure import Pace, UpdateRatio, gradient_norms
from sightline.train.precision import Precision
from sightline.train.record import StepRecord
from sightline.train.schedule import dropout_share, factor
from sightline.train.stage import ReadyStage
from sightline.train.step import StepResult, train_step
from sightline.train.validate import validation_accuracy, validation_loss


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the loop reports to: the run directory, the clock, a listener for events, and the signals that stop it."""

    run: RunDirectory
    clock: Clock
    tell: Callable[[dict[str, Any]], None]
    interrupts: Interrupts
    workers: int
    log_every: int
    save_every: int | None
    keep: int
    log_layers: int | None = None
    steps: StepRecord = field(default_factory=StepRecord)


def run_stage(stage: ReadyStage, position: Position, around: Surroundings, guard: StageGuard) -> tuple[Position, str]:
    """Train `stage` from `position` to its end. Returns where it ended, and how: finished, early-stop, interrupted.

    Raises:
        UserError: a loss that is no number; a checkpoint that cannot be written.
    """
    spec, learner, clock = stage.spec, stage.learner, around.clock
    towers = stage.layout.towers(learner.optimizer)
    stage.module.train()
    pace = Pace()
    for batches in clock.waiting(steps(stage.batches, position.step, around.workers), "data"):
        logged = (position.step + 1) % around.log_every == 0 or position.step + 1 == stage.plan.total
        layers = LayersSeen(stage.built.model) if _looked_into(position.step, stage, around) else None
        with clock.phase("step"), layers or contextlib.nullcontext():
            set_rates(learner.optimizer, partial(factor, spec.schedule, position.step, stage.plan.total))
            stage.dropouts.share(dropout_share(spec, position.step, stage.plan.total))
            ratio = UpdateRatio(towers) if logged else None
            learner.optimizer.zero_grad(set_to_none=True)
            stage.objective.before_step(position.step, stage.plan.total)
            result = train_step(
                stage.module,
                batches,
                learner.optimizer,
                learner.precision,
                stage.layout,
                spec.optimizer.clip,
                around.interrupts.requested,
                stage.objective,
            )
            if learner.ema:
                learner.ema.update(position.step)
            position = _counted(position, result, learner.precision)
            left_out = [each for batch in batches for each in batch.skipped]
            if not stage.ranks.twin:
                around.run.skip(left_out, rank=stage.ranks.rank, stage=spec.name, global_step=position.global_step)
            pace.count(batches)
            around.steps.add(result, batches)
            guard.step(result, batches)
        if layers is not None:
            _write(stage, position, "layers", layers.told(result, spec.optimizer.clip, stage.ranks), around)
        if ratio is not None:
            _write(stage, position, "steps", around.steps.told(stage.ranks), around)
            position = _log(stage, position, result, ratio, pace, around)
        if _due(spec.validate_every, position.step, stage.plan.total) and stage.validation is not None:
            position = _validate(stage, position, around, guard)
        if result.stop:
            _save(stage, position, around, guard)
            return position, "interrupted"
        if spec.early_stop and position.stale >= spec.early_stop.patience:
            return _finish(stage, position, around, guard), "early-stop"
        if around.save_every and position.step % around.save_every == 0 and position.step < stage.plan.total:
            _save(stage, position, around, guard)
    return _finish(stage, position, around, guard), "finished"


def _counted(position: Position, result: StepResult, precision: Precision) -> Position:
    return position.advanced(
        step=position.step + 1,
        global_step=position.global_step + 1,
        # Kept as a tensor until it is logged or saved: reading it now would wait for the device.
        window_loss=position.window_loss + result.loss_sum.double(),
        window_tokens=position.window_tokens + result.tokens,
        window_skipped=position.window_skipped + result.overflowed.double() if precision.scales else 0.0,
    )


def _looked_into(done: int, stage: ReadyStage, around: Surroundings) -> bool:
    """Whether the step after `done` steps is one whose layers are written down: the first, the last, now and then."""
    every, step = around.log_layers, done + 1
    return every is not None and stage.layout.layered and (step == 1 or step % every == 0 or step == stage.plan.total)


def _due(every: int | None, step: int, total: int) -> bool:
    return every is not None and (step % every == 0 or step == total)


def _log(
    stage: ReadyStage, position: Position, result: StepResult, ratio: UpdateRatio, pace: Pace, around: Surroundings
) -> Position:
    learner, precision = stage.learner, stage.learner.precision
    (loss_sum,) = stage.ranks.sum([float(position.window_loss)])
    loss, grad_norm = loss_sum / max(1, position.window_tokens), float(result.grad_norm)
    terms = stage.ranks.sum([float(mean) for mean in result.terms.values()]) if result.terms else []
    event = _place(stage, position, "train") | {
        "loss": loss,
        "tokens": result.tokens,
        **({"terms": dict(zip(result.terms, terms, strict=True))} if terms else {}),
        **({"weights": dict(result.weights)} if result.weights else {}),
        "lr": rates(learner.optimizer),
        "grad_norm": _tower_norms(stage, result, grad_norm),
        "grad_norm_total": grad_norm,
        "update_ratio": ratio.after_step(stage.layout.parts),
        "loss_scale": precision.scaler.get_scale() if precision.scales else None,
        **({"skipped": int(position.window_skipped)} if precision.scales else {}),
        "seconds": around.clock.elapsed,
        **pace.rates(stage.ranks),
    }
    _publish(stage, event, around)
    if not math.isfinite(loss):
        fix = "lower the learning rate, lengthen the warm-up, or set precision=fp32; the last checkpoint is whole"
        where = f"stages.{stage.spec.name} step {position.step}"
        raise UserError(f"the loss is no longer a number ({loss})", where=where, fix=fix)
    return position.advanced(window_loss=0.0, window_tokens=0, window_skipped=0.0)


def _tower_norms(stage: ReadyStage, result: StepResult, total: float) -> dict[str, float]:
    """Each tower's gradient norm before clipping: as clipping took it, else worked out from what it left."""
    if result.tower_norms:
        return {tower: float(norm) for tower, norm in result.tower_norms.items()}
    clip = stage.spec.optimizer.clip
    assert clip is None or isinstance(clip, float)
    return gradient_norms(parameters_by_tower(stage.learner.optimizer), total, clip)


def _validate(stage: ReadyStage, position: Position, around: Surroundings, guard: StageGuard) -> Position:
    """Validate (with the averaged weights where there are any), and keep the best weights so far."""
    assert stage.validation is not None
    learner, model, stop = stage.learner, stage.built.model, stage.spec.early_stop
    by_accuracy = stop is not None and stop.metric == "accuracy"
    averaged = learner.ema.in_place() if learner.ema else contextlib.nullcontext()
    with around.clock.phase("validation"), averaged, guard.evaluating():
        encoder = stage.built.encoder_for(stage.spec)
        loss, tokens = validation_loss(
            model,
            stage.validation,
            encoder,
            stage.plan.micro,
            learner.precision,
            stage.layout,
            stage.objective,
            guard.evaluated,
        )
        seen: dict[str, float] = {"loss": loss, "tokens": tokens}
        if by_accuracy:
            seen["accuracy"] = validation_accuracy(
                stage.built, stage.validation, stage.marking, learner.precision, stage.ranks
            )
    _publish(stage, _place(stage, position, "validation") | seen, around)
    gain = seen["accuracy"] - (position.best or 0.0) if by_accuracy else (position.best or 0.0) - loss
    if position.best is not None and gain <= (stop.min_delta if stop else 0.0):
        return position.advanced(stale=position.stale + 1)
    position = position.advanced(best=seen["accuracy"] if by_accuracy else loss, stale=0)
    folder = _save(stage, position, around, guard)
    if stage.ranks.main:
        checkpoint.point("best", folder)
    return position


def _finish(stage: ReadyStage, position: Position, around: Surroundings, guard: StageGuard) -> Position:
    """End the stage on the weights that it is to hand on: the best (with early stopping) or the averages."""
    ema = stage.learner.ema
    if stage.spec.early_stop and position.best is not None:
        stage.ranks.barrier()  # until the main rank has made the link
        stage.layout.load_weights(around.run.checkpoints / "best", stage.built.model)
        if ema:
            checkpoint.load_averages(around.run.checkpoints / "best", ema)
    if ema:
        ema.adopt()
    stage.layout.bring_home(stage.built.model, stage.home)
    # What is saved is the start of the next stage: a resumed run does not take this one up again.
    following = Position(stage=stage.index + 1, global_step=position.global_step)
    _save(stage, position, around, guard, following, stage.at_home())
    return following


def _save(
    stage: ReadyStage,
    position: Position,
    around: Surroundings,
    guard: StageGuard,
    content: Position | None = None,
    learner: Learner | None = None,
) -> Path:
    """Save `content` (default: `position`) of `learner` (default: the stage's) under the name of `position`."""
    folder = around.run.checkpoints / f"{stage.spec.name}-{position.step}"
    content = content or position
    _write(stage, position, "steps", around.steps.told(stage.ranks), around)  # a resumed run does not know of them
    with around.clock.phase("checkpoint"):
        (window,) = stage.ranks.sum([float(content.window_loss)])
        content = content.advanced(window_loss=window, window_skipped=float(content.window_skipped))
        checkpoint.save(folder, learner or stage.learner, content)
        if stage.ranks.main:
            guard.saved(folder)
            checkpoint.prune(around.run.checkpoints, around.keep)
        stage.ranks.barrier()
    _publish(stage, _place(stage, position, "checkpoint") | {"path": f"checkpoints/{folder.name}"}, around)
    return folder


def _place(stage: ReadyStage, position: Position, event: str) -> dict[str, Any]:
    here = {"stage": stage.spec.name, "step": position.step, "global_step": position.global_step}
    return {"event": event, **here, "steps": stage.plan.total}


def _publish(stage: ReadyStage, event: dict[str, Any], around: Surroundings) -> None:
    if stage.ranks.main:
        around.run.log(**event)
        around.tell(event)


def _write(stage: ReadyStage, position: Position, event: str, told: Mapping[str, Any], around: Surroundings) -> None:
    """Write an event that is for `sightline doctor` alone."""
    if stage.ranks.main and told:
        around.run.log(**_place(stage, position, event), **told)
