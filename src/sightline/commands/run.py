"""`sightline run`: somebody's training script, run as Python runs it, and watched."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from sightline.attach.script.session import run_script
from sightline.errors import UserError

VALUED = ("--findings", "--budget")  # our options that take a value
MODULE = "-m"


def ours_and_theirs(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """`sightline run`'s arguments, split where the script's own begin: with SCRIPT, or after `-m MODULE`."""
    place = 0
    while place < len(arguments):
        word = arguments[place]
        if word in VALUED:
            place += 2
        elif word == MODULE:
            return list(arguments[: place + 2]), list(arguments[place + 2 :])
        elif word.startswith(MODULE) and word != MODULE and not word.startswith("--"):
            return [*arguments[:place], MODULE, word[len(MODULE) :]], list(arguments[place + 1 :])
        elif word == "--":
            return list(arguments[:place]), list(arguments[place + 1 :])
        elif word.startswith("-") and word != "-":
            place += 1
        else:
            break
    return list(arguments[:place]), list(arguments[place:])


def launch(
    script: Sequence[str], module: str | None, findings: Path | None, strict: bool, budget: float
) -> Callable[[], int]:
    """What runs the script; called once the command line itself is done. Raises UserError for bad input."""
    if not 0 < budget <= 100:
        raise UserError(f"a budget of {budget:g} % is impossible", where="--budget", fix="a number above 0, up to 100")
    if findings is not None and (findings.is_dir() or not findings.absolute().parent.is_dir()):
        what = "is a folder" if findings.is_dir() else "is in a folder that does not exist"
        raise UserError(f"the file {what}", where=f"--findings {findings}", fix="name a file in a folder that exists")
    if module is None and not script:
        raise UserError("no script was given", where="run", fix="sightline run train.py, or sightline run -m package")
    target, arguments = (module, script) if module is not None else (script[0], script[1:])

    def run() -> int:
        sys.excepthook = sys.__excepthook__  # the command line's own is not the script's
        return run_script(
            target, arguments, module=module is not None, findings=findings, strict=strict, budget=budget / 100
        )

    return run
