"""The recipe that a command is about, read before anything heavy is imported: a misspelt name is told at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sightline.errors import UserError
from sightline.recipe.read import load
from sightline.recipe.schema import Recipe


def asked_for(
    name: str | None, overrides: Sequence[str], out: Path | None, resume: Path | None, or_resume: bool = False
) -> Recipe | None:
    """The recipe to train; None where a run goes on with its own.

    Raises:
        UserError: no such recipe, or arguments that contradict each other.
    """
    if resume is not None and out is not None:
        raise UserError("a resumed run goes on in its own directory", where="--out", fix="leave --out away")
    if or_resume and (resume is not None or out is None):
        fix = "sightline train RECIPE --out RUN --or-resume"
        raise UserError("it goes on with the run of --out, and none is named", where="--or-resume", fix=fix)
    if resume is not None and name is None:
        of_run(resume)
        return None
    if name is None:
        raise UserError("name a recipe, or a run to go on with (--resume RUN)", fix="see `sightline recipes`")
    if "=" in name:
        fix = "sightline train RECIPE key=value ... (a resumed run has the recipe it was started with)"
        raise UserError(f"'{name}' stands where the recipe's name belongs", fix=fix)
    return load(name, overrides)


def of_run(folder: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of the run in `folder`, with `overrides` of what it is judged by.

    Raises:
        UserError: `folder` is no run directory, or an override changes what was trained.
    """
    for override in overrides:
        if override.split(".")[0] not in ("data", "evaluate"):
            what = f"'{override}' would change the run, and it is trained already"
            raise UserError(what, fix="change evaluate.KEY or data.NAME.KEY, or train another run")
    if not (folder / "recipe.yaml").is_file():
        what = "not a run directory: it has no recipe.yaml" if folder.exists() else "there is no such run directory"
        raise UserError(what, where=str(folder), fix="give a folder that `sightline train` made, e.g. runs/...")
    return load(str(folder / "recipe.yaml"), overrides)
