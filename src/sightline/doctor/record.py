"""A run directory as the doctor reads it. Nothing is changed, nothing heavy is imported, and the run may be alive."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from sightline.errors import UserError
from sightline.recipe.read import validate
from sightline.recipe.schema import Recipe, Stage
from sightline.recipe.yaml_file import read as read_yaml
from sightline.report.files import integer, mapping, read_lines
from sightline.report.read import read_run
from sightline.report.values import Facts, Guard, History, LayerPoint, StepPoint, TrainPoint

ENDED_BADLY = ("failed", "stopped")


@dataclass(frozen=True)
class StageSeen:
    """What a stage left behind. `spec` is the recipe's part on it, None where the recipe cannot be read."""

    name: str
    spec: Stage | None
    points: tuple[TrainPoint, ...] = ()
    steps: tuple[StepPoint, ...] = ()
    layers: tuple[LayerPoint, ...] = ()

    @property
    def planned(self) -> int | None:
        """How many steps it is to have."""
        return next((point.planned for point in reversed(self.points) if point.planned), None)

    @cached_property
    def losses(self) -> tuple[StepPoint, ...]:
        """Each step's loss, where these were written down; else the logged means, at the step that ends each window."""
        if self.steps and len(self.steps) >= len(self.points):
            return self.steps
        return tuple(StepPoint(p.stage, p.step, p.own or 0, p.loss, p.grad_norm_total) for p in self.points)

    @property
    def towers(self) -> tuple[str, ...]:
        """The towers that learn, as the metrics name them."""
        return tuple(dict.fromkeys(tower for point in self.points for tower in point.grad_norm))

    def key(self, name: str) -> str:
        """A key of this stage, as an override names it."""
        return f"stages.{self.name}.{name}"


@dataclass(frozen=True, slots=True)
class Save:
    """A checkpoint that is whole: its name, and the steps that were done when it was written."""

    name: str
    step: int


@dataclass(frozen=True, slots=True)
class Last:
    """The last line of metrics.jsonl: what it tells of, and where the run was."""

    event: str
    stage: str
    own: int | None
    step: int | None
    planned: int | None


@dataclass(frozen=True)
class Record:
    """Everything that is looked at.

    Attributes:
        held: whether a process holds the run's lock; None: it cannot be known.
        silent: seconds since metrics.jsonl last grew.
        error, trace: what the run wrote down of the exception that ended it, in full.
    """

    folder: Path
    facts: Facts
    history: History
    guard: Guard
    recipe: Recipe | None
    saves: tuple[Save, ...] = ()
    last: Last | None = None
    held: bool | None = None
    silent: float | None = None
    error: str = ""
    trace: str = ""
    notes: tuple[str, ...] = ()
    prints: Mapping[int, str] = field(default_factory=dict)  # step of the run -> the print of its rows

    @cached_property
    def stages(self) -> tuple[StageSeen, ...]:
        """The stages that took a step, in order."""
        specs = {stage.name: stage for stage in self.recipe.stages} if self.recipe else {}
        seen = self.history
        names = dict.fromkeys([*(p.stage for p in seen.train), *(p.stage for p in seen.steps)])
        return tuple(
            StageSeen(name, specs.get(name), _of(name, seen.train), _of(name, seen.steps), _of(name, seen.layers))
            for name in names
        )

    @property
    def step_seconds(self) -> float | None:
        """Seconds a step took, the median over the logged windows of the last stage."""
        points = [p for p in self.history.train if p.clock is not None][-200:]
        pairs = [(one, other) for one, other in pairwise(points) if one.stage == other.stage]
        paces = sorted(
            (b.clock - a.clock) / (b.step - a.step) for a, b in pairs if a.clock and b.clock and b.step > a.step
        )
        return paces[len(paces) // 2] if paces else None

    @property
    def window(self) -> int:
        """Steps between two logged ones."""
        return self.recipe.log_every if self.recipe else 10


def _of(name: str, points: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(point for point in points if point.stage == name)


def read_record(folder: Path) -> Record:
    """Read a run directory.

    Raises:
        UserError: there is none; it is none; or it holds nothing that the run wrote while it trained.
    """
    seen = read_run(folder)
    recipe, notes = _recipe(folder)
    last, prints = _lines(folder)
    facts = _plain_facts(folder)
    if last is None and seen.facts.status not in ENDED_BADLY and not seen.guard.count("error"):
        _say_nothing_is_there(folder)
    metrics = folder / "metrics.jsonl"
    return Record(
        folder=folder,
        facts=seen.facts,
        history=seen.history,
        guard=seen.guard,
        recipe=recipe,
        saves=_saves(folder),
        last=last,
        held=_held(folder / "run.lock"),
        silent=max(0.0, time.time() - metrics.stat().st_mtime) if metrics.is_file() else None,
        error=str(facts.get("error") or ""),
        trace=str(facts.get("traceback") or ""),
        notes=(*seen.notes, *notes),
        prints=prints,
    )


def _say_nothing_is_there(folder: Path) -> None:
    metrics = folder / "metrics.jsonl"
    state = "is empty" if metrics.is_file() else "is missing"
    if metrics.is_file() and metrics.stat().st_size:
        state = "holds no line that can be read"
    fix = "wait until the run has logged a step (`log_every`), or give the folder of one that has"
    raise UserError(f"metrics.jsonl {state}, so there is nothing to examine", where=str(folder), fix=fix)


def _recipe(folder: Path) -> tuple[Recipe | None, list[str]]:
    """The run's recipe; None and why, where it cannot be read: the rest of the run can be."""
    file = folder / "recipe.yaml"
    if not file.is_file():
        return None, ["recipe.yaml is missing: remedies name keys without the values they have."]
    try:
        return validate(read_yaml(file), where=str(file)), []
    except UserError as error:
        return None, [f"recipe.yaml cannot be read ({error.what}): remedies name keys without the values they have."]


def _lines(folder: Path) -> tuple[Last | None, dict[int, str]]:
    """The last event, and the prints of rows by step."""
    last, prints = None, {}
    for line in read_lines(folder / "metrics.jsonl", []):
        step, own, planned = (integer(line.get(key)) for key in ("global_step", "step", "steps"))
        last = Last(str(line.get("event", "")), str(line.get("stage", "")), own, step, planned)
        if step is not None and isinstance(line.get("rows"), str):
            prints[step] = line["rows"]
    return last, prints


def _plain_facts(folder: Path) -> Mapping[str, Any]:
    try:
        return mapping(json.loads((folder / "run.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}  # `read_run` has noted why


def _saves(folder: Path) -> tuple[Save, ...]:
    """The checkpoints that are whole, oldest first: one is renamed into its place when all of it is on the disk."""
    found = []
    for state in folder.glob("checkpoints/[!.]*/state.json"):
        if state.parent.is_symlink():
            continue
        try:
            position = mapping(mapping(json.loads(state.read_text(encoding="utf-8"))).get("position"))
        except (OSError, ValueError):
            continue
        if (step := integer(position.get("global_step"))) is not None:
            found.append(Save(state.parent.name, step))
    return tuple(sorted(found, key=lambda save: save.step))


def _held(lock: Path) -> bool | None:
    """Whether a process holds the lock. One that asks for a share of it, and gives it back at once, disturbs nobody."""
    try:
        with lock.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            fcntl.flock(file, fcntl.LOCK_UN)
            return False
    except OSError:
        return None  # no such file, or a file system without locks
