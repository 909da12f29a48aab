"""The trainer as the guard's host: it attaches by the public door, like anybody's loop, and stops on an early error."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

import torch

from sightline.atomic import write_text
from sightline.attach.ranks import gathered, merged
from sightline.attach.torch_loop import Attachment, attach
from sightline.data.batch import Batch
from sightline.errors import UserError
from sightline.guard.check import Finding
from sightline.guard.evidence import Plan
from sightline.guard.watch import GuardError
from sightline.recipe.schema import Recipe, Tower
from sightline.train.directory import RunDirectory
from sightline.train.overheard import Overheard, among, heard, unheard
from sightline.train.stage import ReadyStage
from sightline.train.step import StepResult

__all__ = ["GuardError", "StageGuard", "guarded"]

_BLOCKS = count()  # of this process, alike on all ranks: names what they tell each other
PREFLIGHT_SECONDS = 5.0  # for showing the data to the guard; encoding has proved every row's length by then


class StageGuard:
    """What the loop says to the guard; without an attachment it says nothing.

    `overheard`: what is attached to where the model lies in parts.
    """

    def __init__(
        self, attachment: Attachment | None, *, whole: bool = True, overheard: Overheard | None = None
    ) -> None:
        self._attachment, self._overheard = attachment, overheard if attachment else None
        self._saved = not whole  # what a rank holds a part of is not compared with a checkpoint

    def step(self, result: StepResult, batches: Sequence[Batch]) -> None:
        """A step was taken on `batches`."""
        if self._overheard:
            self._overheard.step(batches)
        if self._attachment:
            self._attachment.step(loss=result.loss_sum / result.tokens, tokens=result.tokens)

    def evaluating(self) -> contextlib.AbstractContextManager[None]:
        """What runs inside is validation."""
        return self._attachment.evaluating() if self._attachment else contextlib.nullcontext()

    def evaluated(self, batch: Batch) -> None:
        """The model was asked about a held-out batch."""
        if self._overheard:
            self._overheard.evaluated(batch)

    def saved(self, checkpoint: Path) -> None:
        """A checkpoint was written; the stage's first is read back and compared."""
        if self._attachment and not self._saved:
            self._saved = True
            self._attachment.checkpoint(checkpoint / "model.safetensors")


@contextlib.contextmanager
def guarded(recipe: Recipe, stage: ReadyStage, run: RunDirectory) -> Iterator[StageGuard]:
    """Watch the block's training on every rank; the main one keeps the verdicts of all in findings.jsonl.

    Raises:
        GuardError: an error that shows before the first step; `guard.allow` suppresses it with a reason.
        UserError: the same, on the ranks that did not find it.
    """
    if not recipe.guard.on:
        yield StageGuard(None)
        return

    def note(finding: Finding) -> None:  # at once, in case the process dies before the verdicts are written
        if stage.ranks.main:
            run.append("findings.jsonl", _line(finding) | {"stage": stage.spec.name})

    name, watched = f"trainer/{next(_BLOCKS)}", stage.layout.watched
    overheard = None if watched else Overheard(stage.learner.optimizer, stage.built.encoder_for(stage.spec))
    attachment = None
    if overheard is None:
        attachment = _attach(recipe, stage, note)
    elif not stage.ranks.twin:  # which is fed what its first twin is fed
        attachment = _attach_beside(recipe, stage, note, overheard)
        among(attachment, stage.ranks, name)
    try:
        found = attachment.preflight(_shown(stage), runnable=int(watched)) if attachment else ()
        _agree(stage, [one for one in found if one.severity == "error"])
        yield StageGuard(attachment, whole=not stage.layout.spreads, overheard=overheard)
        if attachment:
            attachment.close()
    finally:
        everyone = gathered(attachment.records() if attachment else [], name=name)
        if everyone is not None:
            verdicts = merged(everyone) + ([] if watched else unheard(stage.layout))
            keep_verdicts(run.path / "findings.jsonl", stage.spec.name, verdicts)


def _agree(stage: ReadyStage, errors: list[Finding]) -> None:
    """Stop on all ranks when one has errors: none may wait for those that stopped."""
    everyone = stage.layout.parts  # twins, too
    if errors:
        everyone.sum([1.0])
        raise GuardError(errors)
    if elsewhere := everyone.sum([0.0])[0]:
        what = f"{elsewhere:.0f} other ranks found errors before the first step"
        raise UserError(what, where="guard", fix="see findings.jsonl")


def _attach(recipe: Recipe, stage: ReadyStage, note: Any) -> Attachment:
    model, encoder = stage.built.model, stage.built.encoder_for(stage.spec)
    plan: dict[Tower, Plan] = {}
    for tower, decided in stage.towers.items():
        if decided.trainable + decided.frozen:
            plan[tower] = "none" if not decided.trainable else "part" if decided.frozen else "all"
    return attach(
        stage.module,
        stage.learner.optimizer,
        tokenizer=encoder.tokenizer,
        decode=lambda ids: encoder.decode(list(ids)),
        towers={tower: [name for name, _ in model.tower_modules(tower)] for tower in plan},
        plan={str(tower): rule for tower, rule in plan.items()},
        image_token_id=encoder.image_token_id,
        tokens_per_image=encoder.tokens_per_image,
        accumulation=stage.plan.accumulate,
        allow=recipe.guard.allow,
        on_finding=note,
        forward=stage.objective.forward,
    )


def _attach_beside(recipe: Recipe, stage: ReadyStage, note: Any, overheard: Overheard) -> Attachment:
    """To a stand-in for the model, with the checks that need no more."""
    encoder = stage.built.encoder_for(stage.spec)
    return attach(
        overheard.stand_in,
        overheard.optimizer,
        tokenizer=encoder.tokenizer,
        decode=lambda ids: encoder.decode(list(ids)),
        image_token_id=encoder.image_token_id,
        tokens_per_image=encoder.tokens_per_image,
        accumulation=stage.plan.accumulate,
        allow=recipe.guard.allow,
        on_finding=note,
        checks=heard(stage.layout),
    )


def _shown(stage: ReadyStage) -> Iterator[Batch]:
    """Batches for the preflight: one as it will be trained on, then all the data's tokens, while time allows."""
    batches, precision = stage.batches, stage.learner.precision
    first = batches[0].to(stage.ranks.device)
    with precision.autocast():
        yield first
    until = time.monotonic() + PREFLIGHT_SECONDS
    for supply in batches.supplies.values():
        if supply.encoder.needs_images:  # its tokens cost as much as a step: the live batches will show them
            continue
        for start in range(0, len(supply), stage.plan.micro):
            if time.monotonic() > until:
                return
            sequences = [supply[i] for i in range(start, min(start + stage.plan.micro, len(supply)))]
            yield supply.encoder.collate(sequences, features=_no_pixels)


def _no_pixels(keys: tuple[str, ...]) -> torch.Tensor:
    """Stands in for the images of a batch that is looked at and never run."""
    return torch.empty(len(keys), 0, 0)


def keep_verdicts(path: Path, stage: str, records: list[dict[str, Any]]) -> None:
    """Write this stage's verdicts beside the other stages'.

    A check has one line: a finding (of each stage that has one), else allowed, else passed, else not run.
    """
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    earlier = [line for line in lines if line.get("stage") != stage or line["kind"] in ("passed", "not-run")]
    findings = [line for line in earlier if line["kind"] == "finding"]
    found = {line["check"] for line in findings} | {r["check"] for r in records if r["kind"] == "finding"}
    merged = {line["check"]: line for line in earlier if line["kind"] != "finding" and line["check"] not in found}
    for record in records:
        line = record | {"stage": stage}
        if record["kind"] == "finding":
            findings.append(line)
        elif record["check"] not in found:
            merged[record["check"]] = _stronger(merged.get(record["check"]), line)
    write_text(
        path,
        "".join(json.dumps(line, ensure_ascii=False, default=str) + "\n" for line in [*findings, *merged.values()]),
    )


def _stronger(one: dict[str, Any] | None, other: dict[str, Any]) -> dict[str, Any]:
    if one is None:
        return other
    rank = ("not-run", "passed", "allowed")
    stronger, weaker = sorted((one, other), key=lambda line: rank.index(line["kind"]), reverse=True)
    if stronger["kind"] == weaker["kind"] == "passed":
        return stronger | {"times": one["times"] + other["times"]}
    return stronger


def _line(finding: Finding) -> dict[str, Any]:
    told = asdict(finding)
    told["evidence"] = dict(told.pop("seen"))
    return {"kind": "finding"} | told
