"""`sightline launch`: the files that start a run on a cluster, and what to do with them."""

from __future__ import annotations

from pathlib import Path

from sightline.commands.terminal import say
from sightline.plan.launch.job import Asked, job
from sightline.plan.launch.targets import target, write
from sightline.recipe.schema import Recipe


def launch(recipe: Recipe, on: str, asked: Asked, out: Path | None, force: bool) -> int:
    """Write the job files for `on`; returns the exit status. Raises UserError as `job`, `target` and `write`."""
    chosen = target(on)
    made = job(recipe, asked)
    files = chosen(made)
    folder = out or Path("jobs") / f"{made.name}-{on}"
    written = write(files, folder, force=force)
    ranks = f"{made.nodes} x {made.gpus} {made.gpu}"
    say(f"{recipe.name} on {ranks} ({made.fabric.what})", *(f"  {path}" for path in written))
    say("run:", f"  cd {folder}", *(f"  {step}" for step in files.steps))
    if made.data:
        say("the recipe reads these, which must be there under the same names:", *(f"  {path}" for path in made.data))
    return 0
