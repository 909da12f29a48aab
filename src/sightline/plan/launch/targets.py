"""The targets that job files are written for, and the folder that they are written to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sightline.atomic import write_text
from sightline.errors import UserError, nearest
from sightline.plan.launch import kubernetes, skypilot, slurm, torchrun, vertex
from sightline.plan.launch.job import Files, Job

TARGETS: dict[str, Callable[[Job], Files]] = {
    "torchrun": torchrun.files,
    "slurm": slurm.files,
    "k8s": kubernetes.files,
    "vertex": vertex.files,
    "skypilot": skypilot.files,
}


def target(name: str) -> Callable[[Job], Files]:
    """What writes the files of the target called `name`. Raises UserError, with the list, for an unknown one."""
    if name not in TARGETS:
        what = f"no target is called '{name}' ({nearest(name, TARGETS)})"
        raise UserError(what, where="--on", fix=f"use one of {', '.join(TARGETS)}")
    return TARGETS[name]


def write(files: Files, out: Path, *, force: bool) -> list[Path]:
    """Write `files` into the folder `out`; returns their paths.

    Raises:
        UserError: `out` is a file, or holds something; `force` replaces the files of the same names, and no others.
    """
    if out.exists() and not out.is_dir():
        raise UserError("this is a file", where=f"--out {out}", fix="name a folder")
    if out.is_dir() and not force and (held := sorted(entry.name for entry in out.iterdir())):
        more = f" and {len(held) - 1} more" if len(held) > 1 else ""
        fix = "choose another folder, or replace the job's files by --force"
        raise UserError(f"the folder holds {held[0]}{more} already", where=f"--out {out}", fix=fix)
    written = []
    for name, text in files.files.items():
        write_text(out / name, text)
        if text.startswith("#!"):
            (out / name).chmod(0o755)
        written.append(out / name)
    return written
