"""TrainCheck 0.2.0 on one pair of scripts, by its own three tools and as its guide says.

Invariants are inferred from clean runs with other seeds, then checked on the faulty run and on one more clean run.
Peculiarities that this file knows: the model's variable must be named (it is read off the script); several ranks run
under a shell script of theirs; tracking a model by proxies breaks some scripts, and then it is sampled instead;
`failed.log` holds one JSON object after another; a faulty script that ends by itself with an error still leaves traces.
"""

from __future__ import annotations

import ast
import json
import math
import os
import shutil
import signal
import subprocess
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

REFERENCES = 3  # clean runs to learn from; its paper takes as few, its issue tracker advises up to 6
STYLES = ("proxy", "sampler")  # how a model is tracked: its default, then the one that touches the model least
LIMITS = {"collect": 1800, "infer": 7200, "check": 3600}  # seconds on a loaded machine: 20 times what most need
LAUNCH = "{python} -m torch.distributed.run --standalone --nproc-per-node 2 train.py\n"


@dataclass
class Told:
    """What TrainCheck said. `why`: it could not be asked, and why; else violations of its invariants."""

    why: str | None = None
    invariants: int = 0
    raw: int = 0
    clean: int = 0
    new: int = 0
    step: int | None = None  # the first of the new ones shows itself
    style: str = ""
    seconds: dict[str, float] = field(default_factory=dict)


class Failed(Exception):
    """A tool of TrainCheck failed or did not end; its last words."""


def examine(venv: Path, folder: Path, place: Path, *, ranked: bool) -> dict[str, Any]:
    """Everything about one pair, in the empty folder `place`."""
    reasons = []
    for style in STYLES:
        told, work = Told(style=style), place / style
        work.mkdir()
        try:
            _examine(told, venv, folder, work, ranked)
            return asdict(told)
        except Failed as failure:
            reasons.append(f"{style}: {failure}")
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return asdict(Told(why="; ".join(reasons)))


def _examine(told: Told, venv: Path, folder: Path, work: Path, ranked: bool) -> None:
    start = time.perf_counter()
    traces = [
        _collect(venv, folder / "clean.py", work / f"clean{seed}", seed, told.style, ranked)
        for seed in range(1, REFERENCES + 2)
    ]
    faulty = _collect(venv, folder / "faulty.py", work / "faulty", 0, told.style, ranked)
    told.seconds["collect"] = round(time.perf_counter() - start, 1)
    invariants = work / "invariants.json"
    start = time.perf_counter()
    _tool("infer", [venv / "bin/traincheck-infer", "-f", *traces[:REFERENCES], "-o", invariants], work)
    told.seconds["infer"] = round(time.perf_counter() - start, 1)
    told.invariants = len(invariants.read_text(encoding="utf-8").splitlines())
    start = time.perf_counter()
    clean, found = (_check(venv, trace, invariants, work) for trace in (traces[REFERENCES], faulty))
    told.seconds["check"] = round(time.perf_counter() - start, 1)
    new = found.keys() - clean.keys()
    steps = [found[name] for name in new if found[name] is not None]
    told.raw, told.clean, told.new = len(found), len(clean), len(new)
    told.step = min((step for step in steps if step is not None), default=None)


def _collect(venv: Path, script: Path, place: Path, seed: int, style: str, ranked: bool) -> Path:
    """Run a script under its instrumentation; the folder of its traces."""
    place.mkdir()
    shutil.copy(script, place / "train.py")
    command = [venv / "bin/traincheck-collect", "--pyscript", "train.py", "--output-dir", "out"]
    if (model := _model(script)) is not None:
        command += ["--models-to-track", model, "--model-tracker-style", style]
    if ranked:
        (place / "train.sh").write_text(LAUNCH.format(python=venv / "bin/python"), encoding="utf-8")
        command += ["--shscript", "train.sh"]
    out = place / "out"
    try:
        _tool("collect", command, place, seed)
    except Failed:
        if script.stem == "clean" or not any(out.glob("trace_API_*")) or _broke(out):
            raise
    return out


def _broke(out: Path) -> bool:
    """Whether the instrumentation itself, and not the script, ended the run."""
    said = out / "program_output.txt"
    return not said.exists() or "traincheck/instrumentor" in said.read_text(encoding="utf-8").split("Traceback")[-1]


def _model(script: Path) -> str | None:
    """The variable whose parameters an optimizer is given: `model` in ``SGD(model.parameters())``."""
    for call in (
        node for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)
    ):
        for given in call.args:
            inner = given.func if isinstance(given, ast.Call) else None
            if isinstance(inner, ast.Attribute) and inner.attr == "parameters" and isinstance(inner.value, ast.Name):
                return inner.value.id
    return None


def _check(venv: Path, trace: Path, invariants: Path, work: Path) -> dict[str, int | None]:
    """Broken invariant -> first step at which it was seen broken, where a step is known."""
    out = work / f"check-{trace.parent.name}"
    command = [venv / "bin/traincheck-check", "-f", trace, "-i", invariants, "-o", out, "--no-html-report"]
    _tool("check", command, work)
    broken: dict[str, int | None] = {}
    for log in out.rglob("failed*.log"):
        text, decoder, at = log.read_text(encoding="utf-8"), json.JSONDecoder(), 0
        while (at := text.find("{", at)) >= 0:
            record, at = decoder.raw_decode(text, at)
            name, step = json.dumps(record.get("invariant", record), sort_keys=True), _step(record)
            known = broken.get(name)
            broken[name] = step if known is None else min(known, known if step is None else step)
    return broken


def _step(record: dict[str, Any]) -> int | None:
    """The last step of what broke the invariant, as TrainCheck counts them (0: before the first)."""
    steps = [e.get("meta_vars.step") for e in record.get("trace") or [] if isinstance(e, dict)]
    known = [s for s in steps if isinstance(s, int | float) and math.isfinite(s)]
    return int(max(known)) if known else None


def _tool(name: str, command: list[Any], folder: Path, seed: int = 0) -> None:
    """Run one of its tools to its end, or end it and all that it started.

    Raises:
        Failed: it ended with an error, or not in time.
    """
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "SEED": str(seed)}
    log = folder / f"{name}.log"
    with log.open("w", encoding="utf-8") as said:
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=folder,
            env=variables,
            stdout=said,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            status = process.wait(timeout=LIMITS[name])
        except subprocess.TimeoutExpired:
            raise Failed(f"{name}: no end within {LIMITS[name]} s") from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if status:
        raise Failed(f"{name}: {_last_words(log)}")


def _last_words(log: Path) -> str:
    """The line that names the error: the last one that reads like "SomeError: ..."."""
    lines = [line.strip("\x1b[0m94 ") for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    named = [
        line for line in lines if line.split(":")[0].endswith(("Error", "Exception")) and " " not in line.split(":")[0]
    ]
    return (named or [line for line in lines if line] or ["no word"])[-1][:160]
