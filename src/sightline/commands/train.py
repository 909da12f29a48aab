"""`sightline train`: a run from a recipe, or the rest of one, with its progress on the terminal."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from sightline.commands.summary import augmented_lines, evaluation_lines, left_out_lines
from sightline.commands.terminal import console, say
from sightline.errors import UserError
from sightline.recipe.schema import Recipe
from sightline.train.directory import default_path
from sightline.train.interrupt import Interrupted
from sightline.train.run import resume as go_on
from sightline.train.run import train as run_recipe

LINES = 20  # of progress in a stage, where no terminal shows a bar


def train(recipe: Recipe | None, out: Path | None, resume: Path | None, or_resume: bool = False) -> int:
    """Train `recipe` (or go on with the run `resume`), tell how it ended and where the report is; the exit status.

    Args:
        or_resume: whether `out`, where it is this run already, is gone on with; so it is when torchrun starts all
            ranks anew, since one of them was lost.

    Raises:
        UserError: as `sightline.train.run`. GuardError: the guard stopped the run.
    """
    if resume is None and int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")):
        if out is None:
            fix = "start it with --out RUN; what is saved by now goes on with --resume RUN"
            raise UserError("torchrun starts the ranks anew, and nothing says where the run is", where="--out", fix=fix)
        or_resume = True
    main = os.environ.get("RANK", "0") == "0"  # torchrun starts one of us for each rank; one of them talks
    with Screen(show=main) as screen:
        try:
            if resume is not None:
                run = go_on(resume, recipe, screen.listen, screen.tell)
            else:
                assert recipe is not None
                out = out or default_path(recipe)
                run = run_recipe(recipe, out, screen.listen, screen.tell, or_resume=or_resume)
        except Interrupted as interrupted:
            if main:
                say(f"{interrupted}; saved. Go on with: sightline train --resume {resume or out}", stderr=True)
            return 128 + interrupted.signal
    if main:
        say(f"run: {run}", *evaluation_lines(run), *left_out_lines(run), *augmented_lines(run))
        if (page := run / "report.html").is_file():
            say(f"report: {page.resolve().as_uri()}")
    return 0


class Screen:
    """Progress on the error stream: bars in a terminal, a few lines elsewhere, nothing with `show` off."""

    def __init__(self, *, show: bool = True) -> None:
        self._console = console(stderr=True)
        self._show, self._live = show, show and self._console.is_terminal
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self._bars = Progress(*columns, console=self._console, transient=True, disable=not self._live)
        self._stages: dict[str, TaskID] = {}
        self._told: dict[str, int] = {}

    def __enter__(self) -> Screen:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def listen(self, event: dict[str, Any]) -> None:
        """Show an event of metrics.jsonl."""
        kind = event.get("event")
        if kind == "train":
            self._step(event)
        elif kind == "validation":
            accuracy = f", accuracy {100 * event['accuracy']:.1f} %" if "accuracy" in event else ""
            self._line(f"{_place(event)}  validation loss {event['loss']:.4f}{accuracy}")
        elif kind == "resume":
            self._line(f"going on after step {event['global_step']}")

    def tell(self, what: str, total: int) -> Callable[[int], None]:
        """Show long work beside the steps; returns a function told of progress."""
        task = self._bars.add_task(what, total=total, note="")
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            self._bars.update(task, completed=done, visible=done < total)

        return advance

    def _step(self, event: dict[str, Any]) -> None:
        stage, step, steps = event["stage"], event["step"], event["steps"]
        note = f"loss {event['loss']:.4f}"
        if self._live:
            if stage not in self._stages:
                self._stages[stage] = self._bars.add_task(stage, total=steps, note="")
            self._bars.update(self._stages[stage], completed=step, note=note)
        elif step - self._told.get(stage, 0) >= steps / LINES or step == steps:
            self._told[stage] = step
            self._line(f"{_place(event)}  {note}")

    def _line(self, text: str) -> None:
        if self._show:
            self._bars.console.print(text, markup=False, soft_wrap=True)


def _place(event: dict[str, Any]) -> str:
    return f"{event['stage']} {event['step']}/{event['steps']}"
