"""`sightline sweep`: one recipe with many settings, run one after another or written as an array of jobs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sightline.atomic import write_json, write_text
from sightline.commands.terminal import say, table
from sightline.errors import UserError
from sightline.plan.launch.array import array
from sightline.plan.launch.job import Asked, divides, job
from sightline.plan.launch.targets import write
from sightline.recipe.read import to_yaml
from sightline.recipe.sweep import Swept
from sightline.report import sweep as results

MANIFEST = "sweep.json"


def sweep(runs: Sequence[Swept], out: Path, on: str | None, asked: Asked, collect: bool) -> int:
    """Do, emit or only collect `runs` in the folder `out`; returns the exit status.

    Raises:
        UserError: `out` holds another sweep or something else, a target that has no arrays.
    """
    write_runs = array(on) if on and not collect else None
    if write_runs:
        first = job(runs[0].recipe, asked)
        for each in runs:
            divides(each.recipe, asked.nodes, asked.gpus)
        files = write_runs(first, [each.recipe for each in runs])
    prepare(runs, out)
    status = 0
    if write_runs:
        written = write(files, out, force=True)
        say(f"{len(runs)} runs of {runs[0].recipe.name}", *(f"  {path}" for path in written))
        say("run:", f"  cd {out}", *(f"  {step}" for step in files.steps))
        say("then: the same command with --collect in place of --on")
        return 0
    if not collect:
        status = _one_after_another(runs, out)
    _tell(runs, out)
    return status


def prepare(runs: Sequence[Swept], out: Path) -> None:
    """The manifest and every run's recipe. Raises UserError where `out` holds another sweep, or something else."""
    told = [{"run": each.number, "overrides": list(each.overrides)} for each in runs]
    manifest: dict[str, Any] = {"recipe": runs[0].recipe.name, "runs": told}
    path = out / MANIFEST
    if path.is_file():
        if json.loads(path.read_text(encoding="utf-8")) != manifest:
            fix = "give the settings it was made with, or another --out"
            raise UserError("this folder holds a sweep of other settings", where=str(path), fix=fix)
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError("there is something here that is no sweep", where=f"--out {out}", fix="choose another folder")
    for each in runs:
        recipe = out / "runs" / str(each.number) / "recipe.yaml"
        text = to_yaml(each.recipe)
        if recipe.is_file() and recipe.read_text(encoding="utf-8") != text:
            fix = "take the recipe back, or choose another --out"
            raise UserError("the recipe has changed since this sweep was begun", where=str(recipe), fix=fix)
        write_text(recipe, text)
    write_json(path, manifest)


def run_directory(out: Path, each: Swept) -> Path:
    """Where a run of the sweep lies."""
    return out / "runs" / str(each.number) / "run"


def outcomes(runs: Sequence[Swept], out: Path) -> list[results.Outcome]:
    """What there is of each run."""
    return [results.outcome(each.number, each.setting, each.seed, run_directory(out, each)) for each in runs]


def _one_after_another(runs: Sequence[Swept], out: Path) -> int:
    """Train what is not finished. A run that bad input or the guard ends does not keep the others from running."""
    from sightline.guard.report import told
    from sightline.guard.watch import GuardError
    from sightline.train.interrupt import Interrupted
    from sightline.train.run import train

    status = 0
    for each, before in zip(runs, outcomes(runs, out), strict=True):
        what = ", ".join([*(f"{key}={value}" for key, value in each.setting.items()), f"seed={each.seed}"])
        if before.status == "finished":
            say(f"run {each.number} ({what}): finished before", stderr=True)
            continue
        say(f"run {each.number} of {len(runs)} ({what})", stderr=True)
        try:
            train(each.recipe, run_directory(out, each), or_resume=True)
        except Interrupted as interrupted:
            say(f"{interrupted}; saved. The same command goes on.", stderr=True)
            return 128 + interrupted.signal
        except GuardError as error:
            say(f"run {each.number}: stopped by the guard", *map(told, error.findings), style="red", stderr=True)
            status = status or 3
        except UserError as error:
            say(f"run {each.number}: {error}", style="red", stderr=True)
            status = 2
    return status


def _tell(runs: Sequence[Swept], out: Path) -> None:
    found = outcomes(runs, out)
    write_text(out / "results.csv", results.as_csv(found))
    write_text(out / "results.md", results.as_page(runs[0].recipe.name, found))
    figure = results.headline(found)
    done = sum(each.status == "finished" for each in found)
    say(f"{done} of {len(found)} runs are finished: {out / 'results.csv'}, {out / 'results.md'}")
    if figure is None:
        return
    ranked = results.by_setting(found, figure)
    keys = list(ranked[0][0])
    rows = [[*(setting[key] for key in keys), *results.told(values)] for setting, values in ranked]
    table([*keys, figure, "95 %", "runs"], rows, numbers=(figure, "runs"))
