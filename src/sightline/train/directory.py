"""The run directory while it is written: recipe, facts, metrics, the lock. Everything after training only reads it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sightline.atomic import write_json, write_text
from sightline.data.row import Skipped, Where
from sightline.errors import UserError
from sightline.recipe.read import to_yaml, validate
from sightline.recipe.schema import Recipe
from sightline.recipe.yaml_file import parse

SKIPPED = "skipped"  # skipped-<rank>.jsonl: rows left out in training, as they are met


class RunDirectory:
    """A run's folder. Writers go through it, so that every file has one format and one place."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.facts: dict[str, Any] = {}

    @property
    def checkpoints(self) -> Path:
        """Where the saves are."""
        return self.path / "checkpoints"

    def record(self, **facts: Any) -> None:
        """Set facts of run.json."""
        self.facts.update(facts)
        write_json(self.path / "run.json", self.facts)

    def catch_up(self) -> None:
        """Read the facts that were recorded so far, by another process or run."""
        if (self.path / "run.json").exists():
            self.facts = json.loads((self.path / "run.json").read_text(encoding="utf-8"))

    def log(self, **event: Any) -> None:
        """Append one event to metrics.jsonl."""
        self.append("metrics.jsonl", event)

    def append(self, name: str, line: dict[str, Any]) -> None:
        """Append one JSON line to file `name`; a whole line reaches the file or none does."""
        with (self.path / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def rewind(self, global_step: int) -> None:
        """Drop the events after `global_step`, which a resumed run will live through again."""
        for path in (self.path / "metrics.jsonl", *self.path.glob(f"{SKIPPED}-*.jsonl")):
            if path.exists():
                kept = [text for text, line in _lines(path) if line.get("global_step", 0) <= global_step]
                write_text(path, "".join(f"{text}\n" for text in kept))

    def skip(self, left_out: Iterable[Skipped], *, rank: int = 0, **place: Any) -> None:
        """Write down rows that training leaves out; each rank has a file of its own."""
        for each in left_out:
            told = {"file": each.where.file, "row": each.where.row, "reason": each.reason}
            self.append(f"{SKIPPED}-{rank}.jsonl", place | told)

    def skipped(self) -> list[Skipped]:
        """The rows that training left out so far, on any rank."""
        files = sorted(self.path.glob(f"{SKIPPED}-*.jsonl"))
        found = [line for path in files for _, line in _lines(path)]
        found.sort(key=lambda line: line["global_step"])
        return [Skipped(Where(line["file"], line["row"]), line["reason"]) for line in found]


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """A file's lines and what they say."""
    for text in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):  # a line cut short by a crash belongs to the lost part
            yield text, json.loads(text)


def default_path(recipe: Recipe) -> Path:
    """runs/<recipe>-<time>, new."""
    stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{recipe.name}-{stamp}"


def start(path: Path, recipe: Recipe) -> RunDirectory:
    """A new run directory at `path`.

    Raises:
        UserError: the folder holds something already.
    """
    if path.exists() and (not path.is_dir() or any(entry.name != "run.lock" for entry in path.iterdir())):
        fix = "choose another --out, or go on with it by --resume"
        raise UserError("there is something in this folder already", where=str(path), fix=fix)
    path.mkdir(parents=True, exist_ok=True)
    write_text(path / "recipe.yaml", to_yaml(recipe))
    run = RunDirectory(path)
    run.record(name=recipe.name, started=datetime.now(UTC).isoformat(), finished=None, status="running", error=None)
    return run


def saved_recipe(path: Path, recipe: Recipe | None) -> Recipe:
    """The recipe of the run in `path`, which must be `recipe` where that is given.

    Raises:
        UserError: not a run directory, or the run was started from another recipe.
    """
    file = path / "recipe.yaml"
    if not file.is_file():
        raise UserError("not a run directory (no recipe.yaml)", where=str(path), fix="give the folder of a run")
    return check_same(recipe, recipe_text(path), path)


def recipe_text(path: Path) -> str:
    """What the recipe of the run in `path` says; empty where there is no run."""
    file = path / "recipe.yaml"
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def status(path: Path) -> str:
    """How the run in `path` stands, as its run.json says; empty where it says nothing."""
    file = path / "run.json"
    return str(json.loads(file.read_text(encoding="utf-8")).get("status", "")) if file.is_file() else ""


def check_same(recipe: Recipe | None, text: str, path: Path) -> Recipe:
    """The recipe of the run in `path`, whose file says `text`.

    Raises:
        UserError: it is not `recipe`, where that is given.
    """
    file = path / "recipe.yaml"
    saved = validate(parse(text, str(file)), where=str(file))
    if recipe is not None and recipe != saved:
        keys = ", ".join(_differing(saved.model_dump(), recipe.model_dump()))
        fix = "resume with the run's own recipe, or start a new run"
        raise UserError(f"this run was started from another recipe; they differ in {keys}", where=str(path), fix=fix)
    return saved


def reopen(path: Path) -> RunDirectory:
    """An existing run directory, to go on with."""
    run = RunDirectory(path)
    run.catch_up()
    run.record(status="running", error=None, finished=None)
    return run


def _differing(one: Any, other: Any, place: str = "") -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            yield from _differing(one.get(key), other.get(key), f"{place}.{key}" if place else key)
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        for i, pair in enumerate(zip(one, other, strict=True)):
            yield from _differing(*pair, f"{place}.{i}")
    elif one != other:
        yield place


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the run directory: a second live run in the same folder is refused. The lock dies with its process."""
    path.mkdir(parents=True, exist_ok=True)
    with (path / "run.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "another process"
            fix = "wait for it, or choose another --out"
            raise UserError(f"a live run ({owner}) is writing here", where=str(path), fix=fix) from None
        file.truncate(0)
        file.write(f"process {os.getpid()}")
        file.flush()
        yield
