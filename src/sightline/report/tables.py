"""The tables of the page, computed from what the run directory says."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from statistics import median

from sightline.report.format import percent
from sightline.report.plots import stage_starts
from sightline.report.series import towers_in
from sightline.report.values import Evaluation, Facts, History, RunSeen, Stage, Tower, TrainPoint

MEMORY_KINDS = ("weights", "gradients", "optimizer")
PHASES = ("setup", "data", "step", "validation", "checkpoint", "evaluation", "export")


@dataclass(frozen=True, slots=True)
class TowerInStage:
    """What one tower did in one stage. `share` is the trainable fraction of its parameters."""

    tower: str
    rule: str
    lr: float | None
    trainable: float | None
    frozen: float | None
    share: float | None


@dataclass(frozen=True, slots=True)
class StageNumbers:
    """A stage's curves in a few numbers: the tables behind the plots. Norms and ratios are medians."""

    name: str
    steps: int
    first_loss: float | None
    last_loss: float | None
    best_validation: float | None
    best_accuracy: float | None
    lr: Mapping[str, float]
    grad_norm: Mapping[str, float]
    update_ratio: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Memory:
    """A stage's estimated state in bytes by kind, its sum, and the measured peak. `others` names the lesser kinds."""

    stage: str
    estimated: Mapping[str, float]
    others: tuple[str, ...]
    total: float
    peak: float | None


@dataclass(frozen=True, slots=True)
class Bar:
    """One accuracy of the headline chart; `how` says where it comes from."""

    name: str
    accuracy: float
    interval: tuple[float, float] | None
    quoted: str
    how: tuple[str, ...]


def bars(evaluation: Evaluation) -> list[Bar]:
    """The result and what it is measured against, as the headline shows them."""
    made = [Bar("With the right picture", evaluation.accuracy, evaluation.interval, "", ())]
    names = {
        "text_only": "Words alone",
        "shuffled_images": "Pictures shuffled",
        "chance": "By lot",
        "majority": "Always",
    }
    for kind, name in names.items():
        if (base := evaluation.baselines.get(kind)) is None:
            continue
        how = [f"{percent(base.accuracy)}: {base.description}"] if base.description else []
        if base.ceiling is not None:
            name += ", at most"
            how += [f"{percent(base.ceiling)} at most: {base.ceiling_description}"]
        made.append(Bar(name, base.bar, None, base.answer, tuple(how)))
    return made


def towers(facts: Facts) -> list[Tower]:
    """The towers of the run; one that only a stage names is there too, without its facts."""
    known = {tower.name: tower for tower in facts.towers}
    named = towers_in([dict.fromkeys(known, 0.0), *(_named(stage) for stage in facts.stages)])
    return [known.get(name, Tower(name, None, None, "")) for name in named]


def learning(stage: Stage, facts: Facts) -> list[TowerInStage]:
    """What of each tower learned in a stage and what stood still; one row for every tower of `towers`."""
    rows = []
    for tower in (tower.name for tower in towers(facts)):
        trainable, frozen = stage.trainable.get(tower), stage.frozen.get(tower)
        total = (trainable or 0.0) + (frozen or 0.0)
        share = (trainable or 0.0) / total if total > 0 else None
        rule = stage.learn.get(tower, "frozen" if trainable == 0 else "")
        lr = stage.lr.get(tower) if trainable else None
        rows.append(TowerInStage(tower, rule, lr, trainable, frozen, share))
    return rows


def _named(stage: Stage) -> dict[str, float]:
    return dict.fromkeys([*stage.learn, *stage.trainable, *stage.frozen], 0.0)


def stage_numbers(history: History) -> list[StageNumbers]:
    """One row a stage, from its logged steps."""
    rows = []
    for name, start, end in stage_starts(history.train):
        points = [point for point in history.train if point.stage == name and start <= point.step <= end]
        losses = _finite(point.loss for point in points)
        validated = [point for point in history.validation if point.stage == name]
        rows.append(
            StageNumbers(
                name=name,
                steps=end - start,
                first_loss=losses[0] if losses else None,
                last_loss=losses[-1] if losses else None,
                best_validation=min(_finite(point.loss for point in validated), default=None),
                best_accuracy=max(_finite(point.accuracy for point in validated), default=None),
                lr=_each_tower(points, lambda point: point.lr, max),
                grad_norm=_each_tower(points, lambda point: point.grad_norm, median),
                update_ratio=_each_tower(points, lambda point: point.update_ratio, median),
            )
        )
    return rows


def _finite(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None and math.isfinite(value)]


def _each_tower(
    points: list[TrainPoint],
    read: Callable[[TrainPoint], Mapping[str, float]],
    reduce: Callable[[list[float]], float],
) -> dict[str, float]:
    towers = towers_in(map(read, points))
    values = {tower: _finite(read(point).get(tower) for point in points) for tower in towers}
    return {tower: reduce(seen) for tower, seen in values.items() if seen}


def memory(facts: Facts) -> list[Memory]:
    """The stages that say something of their memory."""
    rows = []
    for stage in facts.stages:
        estimated = {kind: stage.estimated_memory[kind] for kind in MEMORY_KINDS if kind in stage.estimated_memory}
        others = sorted(set(stage.estimated_memory) - set(MEMORY_KINDS))
        if others:
            estimated["other"] = sum(stage.estimated_memory[kind] for kind in others)
        if estimated or stage.peak_memory is not None:
            rows.append(Memory(stage.name, estimated, tuple(others), sum(estimated.values()), stage.peak_memory))
    return rows


def phases(facts: Facts) -> list[tuple[str, float, float]]:
    """(phase, seconds, share of the whole) in the order in which a run goes through them."""
    order = {phase: place for place, phase in enumerate(PHASES)}
    seen = sorted(facts.time.items(), key=lambda item: (order.get(item[0], len(order)), item[0]))
    whole = sum(_finite(facts.time.values()))
    return [(phase, seconds, seconds / whole) for phase, seconds in seen if whole > 0 and math.isfinite(seconds)]


def skipped_by_reason(facts: Facts) -> list[tuple[str, int]]:
    """How many rows were left out for each reason, most frequent first; rows that are only counted come last."""
    reasons = Counter(row.reason for row in facts.skipped).most_common()
    unnamed = facts.skipped_count - len(facts.skipped)
    return reasons + ([("not named in run.json", unnamed)] if unnamed else [])


def duration(run: RunSeen) -> float | None:
    """Seconds from start to end; for a run without an end, to its last logged step."""
    try:
        return (datetime.fromisoformat(run.facts.finished) - datetime.fromisoformat(run.facts.started)).total_seconds()
    except (ValueError, TypeError):  # no end yet, or one time with a zone and one without
        return run.history.train[-1].clock if run.history.train else None


def progress(run: RunSeen) -> tuple[int, int | None]:
    """The last step on record, and the planned steps where the run says them."""
    last = run.history.last_step
    planned = sum(stage.steps or 0 for stage in run.facts.stages)
    return last, planned if planned >= last and planned > 0 else None
