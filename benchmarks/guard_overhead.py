"""What watching costs: three small trainings (`overhead/`), bare and watched in several ways, run in turns.

    python benchmarks/guard_overhead.py [--pairs 3] [--traincheck VENV] [--only mlp] [--ways attach run]

Every measurement is a process of its own that trains for 1,400 steps or more and tells how long each took. A round runs
each way once, right after one another, in an order that turns from round to round; a watched run is compared with the
bare run of its round, so that a machine that slows down slows both. Ways of watching:

- attach: `sightline.attach(model, optimizer)` with its default budget of 2 %
- run: `sightline run script.py`, the script unchanged
- histograms: 64 bins of every gradient at every step, as wandb.watch makes them, without its logging
- wandb: `wandb.watch(model)` by its defaults (gradients, every 1,000 steps) and a `log` every 50 steps, offline, where
  it is installed
- traincheck full, traincheck selective: `traincheck-collect` of VENV by its defaults, and with invariants that it
  inferred before from a run of the same script (`--invariants`), which restricts what it records; fewer steps, for it
  takes a hundred times as long. Only scripts whose libraries VENV has.

The guard promises at most 2 % of the time of steps, after at most five seconds and five steps. So a run is told in
three parts: what comes once (making and closing the watcher, and the first five steps, in seconds more than bare), the
rest of the guard's opening (to step 1,024, of which the guard spends at most a second), and steady steps after it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent / "overhead"
SCRIPTS = {"mlp": 4000, "llava": 1400, "llama_trainer": 1400}  # steps of a run
WAYS = ("bare", "attach", "run", "histograms", "wandb")
CHECKED = ("traincheck full", "traincheck selective")
FIRST, OPENING = 5, 1024  # steps, as in src/sightline/attach/pace.py
FEW = 40  # steps under TrainCheck


@dataclass(frozen=True, slots=True)
class Run:
    """One process: seconds of what comes once, and of a step in the opening and in the steady part."""

    once: float
    opening: float
    steady: float
    median: float


def told(output: str) -> Run:
    """The run's last word. A short run has one part for both, after the first five steps."""
    lines = [line for line in output.splitlines() if "TIMES " in line]
    said = json.loads(lines[-1].partition("TIMES ")[2].split("\x1b")[0])
    each = said["each"]
    steady = each[OPENING:] or each[FIRST:]
    opening = each[FIRST:OPENING]
    return Run(
        said["outside"] + sum(each[:FIRST]),
        statistics.fmean(opening),
        statistics.fmean(steady),
        statistics.median(steady),
    )


def measure(name: str, way: str, steps: int) -> Run:
    """Train once."""
    script = str(HERE / f"{name}.py")
    start = [sys.executable, "-m", "sightline", "run", script] if way == "run" else [sys.executable, script]
    return told(_said(start, HERE, way, steps))


def _said(command: Sequence[str], folder: Path, way: str, steps: int) -> str:
    variables = {
        "WAY": way,
        "STEPS": str(steps),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(HERE),
    }
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env={**os.environ, **variables})
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout + done.stderr


def traincheck(venv: Path, name: str, way: str) -> Run:
    """One run under TrainCheck."""
    with tempfile.TemporaryDirectory() as place:  # it writes what it makes of a script beside it
        script, _ = (shutil.copy(HERE / file, place) for file in (f"{name}.py", "ways.py"))
        collect = [str(venv / "bin/traincheck-collect"), "--copy-all-files", "--models-to-track", "model"]
        collect += ["--pyscript", script]
        if way == "traincheck full":
            return told(_said([*collect, "--output-dir", f"{place}/out"], Path(place), "bare", FEW))
        _said([*collect, "--output-dir", f"{place}/reference"], Path(place), "bare", FEW)
        infer = [str(venv / "bin/traincheck-infer"), "-f", f"{place}/reference", "-o", f"{place}/invariants.json"]
        _said(infer, Path(place), "bare", FEW)
        chosen = ["--invariants", f"{place}/invariants.json", "--output-dir", f"{place}/out"]
        return told(_said([*collect, *chosen], Path(place), "bare", FEW))


def rounds(name: str, ways: Sequence[str], pairs: int) -> dict[str, list[Run]]:
    """Each way once a round."""
    found: dict[str, list[Run]] = {way: [] for way in ways}
    for number in range(pairs):
        turn = number % len(ways)
        for way in (*ways[turn:], *ways[:turn]):
            found[way].append(measure(name, way, SCRIPTS[name]))
    return found


def row(name: str, way: str, watched: Sequence[Run], bare: Sequence[Run], note: str = "") -> str:
    """A line of the table: medians over rounds, and the range of their middle half."""
    pairs = list(zip(watched, bare, strict=True))

    def more(part: str) -> str:
        shares = sorted(100 * (getattr(w, part) / getattr(b, part) - 1) for w, b in pairs)
        middle = statistics.median(shares)
        if len(shares) < 2:
            return f"{middle:+,.1f}"
        low, _, high = statistics.quantiles(shares, n=4, method="inclusive")
        return f"{middle:+,.1f} ({low:+,.1f} to {high:+,.1f})"

    once = statistics.median(w.once - b.once for w, b in pairs)
    step = 1e3 * statistics.median(b.median for b in bare)
    return (
        f"| {name} | {step:.2f} | {way}{note} | {once:+.2f} | {more('opening')} | {more('steady')} | {more('median')} |"
    )


def has(venv: Path, module: str) -> bool:
    """Whether a virtual environment has a module."""
    return subprocess.run([str(venv / "bin/python"), "-c", f"import {module}"], capture_output=True).returncode == 0


def lines(given: argparse.Namespace) -> list[str]:
    """The table's lines, printed as they come."""
    ways = [way for way in WAYS if (way in given.ways or way == "bare") and (way != "wandb" or find_spec("wandb"))]
    made = []

    def tell(line: str) -> None:
        made.append(line)
        print(line, flush=True)

    for name in given.only:
        found = rounds(name, ways, given.pairs)
        for way in ways[1:]:
            tell(row(name, way, found[way], found["bare"]))
        if given.traincheck is None:
            continue
        if name != "mlp" and not has(given.traincheck, "transformers"):
            tell(f"| {name} | | traincheck | not measured: its environment has no transformers | | | |")
            continue
        plain = [measure(name, "bare", FEW)]
        for way in CHECKED:
            note = f", {FEW} steps, one pair"
            tell(row(name, way, [traincheck(given.traincheck, name, way)], plain, note))
    return made


def main() -> None:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=3, help="rounds, each with one run of every way")
    parser.add_argument("--only", nargs="*", choices=list(SCRIPTS), default=list(SCRIPTS))
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=WAYS)
    parser.add_argument("--traincheck", type=lambda text: Path(text).absolute(), help="a virtual environment with it")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("guard_overhead.md"))
    given = parser.parse_args()
    began = time.perf_counter()
    head = [
        "| model | bare, ms a step | way | once, s more | opening, % more | steady, % more | median step, % more |",
        "|---|---|---|---|---|---|---|",
    ]
    print("\n".join(head), flush=True)
    table = lines(given)
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    told_by = f"{time.strftime('%Y-%m-%d')}, `python benchmarks/guard_overhead.py --pairs {given.pairs}`, {machine},"
    text = [
        "# What watching costs",
        "",
        f"{told_by} one thread, {(time.perf_counter() - began) / 60:.0f} minutes.",
        "Medians over pairs with a bare run, and the range of the middle half; the tool says what the columns mean.",
        "",
        *head,
        *table,
        "",
    ]
    given.output.write_text("\n".join(text), encoding="utf-8")


if __name__ == "__main__":
    main()
