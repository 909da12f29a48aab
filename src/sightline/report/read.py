"""A run directory -> `RunSeen`. Any file may be missing or cut short: a run may be running, stopped or crashed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sightline.errors import UserError
from sightline.report import values as v
from sightline.report.evaluated import evaluation, leaked
from sightline.report.files import (
    integer,
    items,
    mapping,
    picture,
    read_json,
    read_lines,
    read_text,
    real,
    reals,
    text,
    texts,
)
from sightline.report.inside import layer_point, step_points
from sightline.report.retrieval import retrievals
from sightline.report.robustness import read_robustness
from sightline.report.sureness import calibration, perplexity

SIGNS_OF_A_RUN = ("run.json", "recipe.yaml", "metrics.jsonl", "findings.jsonl")
SEVERITIES = ("error", "warning", "note")
MISTAKES_SHOWN = 8
PICTURES_SHOWN = 96


def read_run(folder: Path) -> v.RunSeen:
    """Everything the page needs from a run directory.

    Raises:
        UserError: `folder` does not exist, is no folder, or holds nothing that a run writes.
    """
    if not folder.is_dir():
        state = "is a file" if folder.exists() else "does not exist"
        raise UserError(f"the run directory {state}", where=str(folder), fix="give the folder that 'train' wrote")
    if not any((folder / name).is_file() for name in SIGNS_OF_A_RUN):
        missing = ", ".join(SIGNS_OF_A_RUN)
        raise UserError(
            f"not a run directory: it has none of {missing}",
            where=str(folder),
            fix="give the folder that 'train' wrote",
        )
    notes: list[str] = []
    return v.RunSeen(
        facts=_facts(folder, notes),
        history=_history(folder, notes),
        guard=_guard(folder, notes),
        evaluation=evaluation(folder, notes),
        mistakes=_mistakes(folder, notes),
        pictures=_pictures(folder, notes),
        recipe=read_text(folder / "recipe.yaml", notes) or "",
        retrievals=retrievals(folder, notes),
        leaks=leaked(folder),
        robustness=read_robustness(folder, notes),
        calibration=calibration(folder),
        perplexity=perplexity(folder),
        notes=tuple(notes),
    )


# --- run.json ----------------------------------------------------------------------------------------------------


def _facts(folder: Path, notes: list[str]) -> v.Facts:
    path = folder / "run.json"
    run = read_json(path, dict, notes)
    if not path.exists():
        notes.append("run.json is missing: how the run ended, its towers and its machine are not known.")
    skipped = tuple(
        v.SkippedRow(text(row.get("where")), text(row.get("reason"))) for row in items(run.get("skipped_rows"))
    )
    settings = {"seed": "seed", "precision": "precision", "device": "device", "world_size": "processes"}
    return v.Facts(
        name=text(run.get("name")) or folder.resolve().name,
        status=text(run.get("status")) or "unknown",
        started=text(run.get("started")),
        finished=text(run.get("finished")),
        error=text(run.get("error")),
        versions=texts(run.get("versions")),
        machine=_machine(texts(run.get("machine"))),
        settings={label: text(run[key]) for key, label in settings.items() if key in run},
        towers=tuple(_tower(name, mapping(tower)) for name, tower in _in_order(mapping(run.get("towers")))),
        stages=tuple(_stage(stage) for stage in items(run.get("stages"))),
        skipped=skipped,
        skipped_count=max(integer(run.get("skipped_count")) or 0, len(skipped)),
        time=reals(run.get("time")),
        export=texts(run.get("export")),
    )


def _machine(said: dict[str, str]) -> dict[str, str]:
    if memory := said.pop("memory_gib", ""):
        said["memory"] = f"{memory} GiB"
    return said


def _in_order(by_tower: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Entries by tower from the picture to the words; towers that are not of the three come last, by name."""
    known = {tower: place for place, tower in enumerate(v.TOWERS)}
    return sorted(by_tower.items(), key=lambda item: (known.get(item[0], len(known)), item[0]))


def _tower(name: str, tower: Mapping[str, Any]) -> v.Tower:
    return v.Tower(name, real(tower.get("parameters")), real(tower.get("bytes")), text(tower.get("description")))


def _stage(stage: Mapping[str, Any]) -> v.Stage:
    return v.Stage(
        name=text(stage.get("name")),
        steps=integer(stage.get("steps")),
        learn={tower: _rule(rule) for tower, rule in _in_order(mapping(stage.get("learn")))},
        lr=reals(stage.get("lr")),
        trainable=reals(stage.get("trainable")),
        frozen=reals(stage.get("frozen")),
        estimated_memory=reals(stage.get("estimated_memory_bytes")),
        peak_memory=real(stage.get("peak_memory_bytes")),
        seconds=real(stage.get("seconds")),
        best_validation=real(stage.get("best_validation")),
        ended=text(stage.get("ended")),
        augment=reals(stage.get("augment")),
    )


def _rule(rule: Any) -> str:
    """A recipe's `learn` rule in words."""
    if isinstance(rule, dict):
        if rule.get("last") is not None:
            return f"last {text(rule['last'])} blocks"
        if rule.get("norms"):
            return "norm layers"
        return f"parameters matching {text(rule.get('pattern'))}"
    said = text(rule)
    words = {"none": "frozen", "lora": "LoRA", "norms": "norm layers"}
    return words.get(said, f"{said} blocks" if said.startswith("last ") else said)


# --- metrics.jsonl -----------------------------------------------------------------------------------------------


def _history(folder: Path, notes: list[str]) -> v.History:
    train: list[v.TrainPoint] = []
    validation: list[v.ValidationPoint] = []
    steps: list[v.StepPoint] = []
    layers: list[v.LayerPoint] = []
    resumed: list[int] = []
    repeated, last, unplaced = 0, 0, 0
    for line in read_lines(folder / "metrics.jsonl", notes):
        step, event = integer(line.get("global_step")), line.get("event")
        if step is None:
            unplaced += event in ("train", "validation")
            continue
        last = step if event == "resume" else max(last, step)
        if event == "train":
            train.append(_train_point(line, step))
        elif event == "validation":
            loss, accuracy = real(line.get("loss")), real(line.get("accuracy"))
            validation.append(v.ValidationPoint(text(line.get("stage")), step, loss, accuracy))
        elif event == "steps":
            steps += step_points(line, step)
        elif event == "layers":
            layers.append(layer_point(line, step))
        elif event == "resume":
            resumed.append(step)
            repeated += sum(point.step > step for point in train)
            train = [point for point in train if point.step <= step]
            validation = [point for point in validation if point.step <= step]
            steps = [point for point in steps if point.step <= step]
            layers = [point for point in layers if point.step <= step]
    if unplaced:
        notes.append(f"metrics.jsonl: {unplaced} lines name no global_step and are left out.")
    return v.History(
        tuple(_one_clock(train)), tuple(validation), tuple(resumed), repeated, last, tuple(steps), tuple(layers)
    )


def _one_clock(points: list[v.TrainPoint]) -> list[v.TrainPoint]:
    """The points with one clock that runs on where a resumed process counted from nought again."""
    made: list[v.TrainPoint] = []
    before = offset = 0.0
    for point in points:
        if point.clock is not None:
            if point.clock + offset < before:
                offset = before
            before = point.clock + offset
            point = replace(point, clock=before)
        made.append(point)
    return made


def _train_point(line: Mapping[str, Any], step: int) -> v.TrainPoint:
    return v.TrainPoint(
        stage=text(line.get("stage")),
        step=step,
        clock=real(line.get("seconds")),
        loss=real(line.get("loss")),
        tokens=real(line.get("tokens")),
        lr=reals(line.get("lr")),
        grad_norm=reals(line.get("grad_norm")),
        grad_norm_total=real(line.get("grad_norm_total")),
        update_ratio=reals(line.get("update_ratio")),
        images_per_s=real(line.get("images_per_s")),
        tokens_per_s=real(line.get("tokens_per_s")),
        loss_scale=real(line.get("loss_scale")),
        terms=reals(line.get("terms")),
        weights=reals(line.get("weights")),
        own=integer(line.get("step")),
        planned=integer(line.get("steps")),
        skipped=int(said) if isinstance(said := line.get("skipped"), bool) else integer(said),
    )


# --- findings.jsonl ----------------------------------------------------------------------------------------------


def _guard(folder: Path, notes: list[str]) -> v.Guard:
    kinds: dict[str, list[v.CheckSeen]] = {"finding": [], "passed": [], "not-run": [], "allowed": []}
    unknown = 0
    for line in read_lines(folder / "findings.jsonl", notes):
        kind = text(line.get("kind"))
        unknown += kind not in kinds
        kinds.setdefault(kind, []).append(_check(kind, line))
    if unknown:
        notes.append(f"findings.jsonl: {unknown} lines are of a kind this page does not know and are left out.")
    return v.Guard(
        recorded=(folder / "findings.jsonl").is_file(),
        found=_by_check(kinds["finding"]),
        passed=tuple(kinds["passed"]),
        unseen=tuple(kinds["not-run"]),
        allowed=tuple(kinds["allowed"]),
    )


def _check(kind: str, line: Mapping[str, Any]) -> v.CheckSeen:
    said = {"finding": "message", "passed": "claim", "not-run": "why", "allowed": "message"}.get(kind, "message")
    return v.CheckSeen(
        kind=kind,
        check=text(line.get("check")),
        code=text(line.get("code")),
        text=text(line.get(said)),
        severity=text(line.get("severity")),
        fix=text(line.get("fix")),
        reason=text(line.get("reason")),
        step=integer(line.get("step")),
        times=integer(line.get("times")),
        evidence=texts(line.get("evidence")),
    )


def _by_check(found: list[v.CheckSeen]) -> tuple[tuple[v.CheckSeen, ...], ...]:
    """Findings of one check together, the worst check first; an unknown severity counts as the worst."""
    groups: dict[str, list[v.CheckSeen]] = {}
    for finding in found:
        groups.setdefault(finding.check or finding.code, []).append(finding)

    def rank(finding: v.CheckSeen) -> int:
        return SEVERITIES.index(finding.severity) if finding.severity in SEVERITIES else -1

    return tuple(
        sorted((tuple(sorted(group, key=rank)) for group in groups.values()), key=lambda group: rank(group[0]))
    )


# --- predictions.jsonl, gallery.json -----------------------------------------------------------------------------


def _mistakes(folder: Path, notes: list[str]) -> v.Mistakes:
    answers, pairs = 0, Counter[tuple[str, str]]()
    for line in read_lines(folder / "predictions.jsonl", notes):
        answers += 1
        if line.get("correct") is False:
            pairs[text(line.get("truth")), text(line.get("answer"))] += 1
    shown = tuple(v.Mistake(truth, answer, count) for (truth, answer), count in pairs.most_common(MISTAKES_SHOWN))
    return v.Mistakes(answers, pairs.total(), shown)


def _pictures(folder: Path, notes: list[str]) -> tuple[v.Picture, ...]:
    seen = items(read_json(folder / "gallery.json", list, notes))
    if len(seen) > PICTURES_SHOWN:
        notes.append(f"gallery.json holds {len(seen):,} pictures; the first {PICTURES_SHOWN} are shown.")
    return tuple(
        v.Picture(
            thumbnail=picture(entry.get("thumbnail")),
            question=text(entry.get("question")),
            answer=text(entry.get("answer")),
            truth=text(entry.get("truth")),
            correct=entry["correct"] if isinstance(entry.get("correct"), bool) else None,
        )
        for entry in seen[:PICTURES_SHOWN]
    )
