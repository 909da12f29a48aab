"""What watching costs: three small trainings (`overhead/`), bare and watched in several ways, run in turns.

    python benchmarks/guard_overhead.py [--pairs 3] [--traincheck VENV] [--only mlp] [--ways attach run]

Every measurement is a process of its own that trains for 1,400 steps or more and tells how long each took. The ways of
a round train at the same time by turns of four steps, only one at any moment, and a watched run is compared with the
bare run of its round step by step: a machine whose speed changes from second to second changes both. Ways of watching:

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
rest of the guard's opening (to step 1,024, of which the guard spends at most a second), and steady steps after it: in
sum, and the median over steps of what one takes to what the same step took bare.
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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from operator import truediv
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
    steady: list[float]


def told(output: str) -> Run:
    """The run's last word. A short run has one part for both, after the first five steps."""
    lines = [line for line in output.splitlines() if "TIMES " in line]
    said = json.loads(lines[-1].partition("TIMES ")[2].split("\x1b")[0])
    each = said["each"]
    once = said["outside"] + sum(each[:FIRST])
    return Run(once, statistics.fmean(each[FIRST:OPENING]), each[OPENING:] or each[FIRST:])


def measure(name: str, ways: Sequence[str], steps: int) -> dict[str, Run]:
    """Train once in each way, by turns: each waits for what the one before writes, and the first for a byte of ours."""
    pipes = [os.pipe() for _ in ways]
    running = {}
    for place, way in enumerate(ways):
        start = [sys.executable, *(("-m", "sightline", "run") if way == "run" else ()), str(HERE / f"{name}.py")]
        turn = (pipes[place][0], pipes[(place + 1) % len(ways)][1])
        running[way] = _started(start, HERE, way, steps, turn)
    os.write(pipes[0][1], b".")
    for end in (end for pipe in pipes for end in pipe):
        os.close(end)  # else nobody would learn that another one is gone
    with ThreadPoolExecutor(len(ways)) as readers:
        return dict(zip(ways, readers.map(told, readers.map(_said, running.values())), strict=True))


def _started(
    command: Sequence[str], folder: Path, way: str, steps: int, turn: tuple[int, ...] = ()
) -> subprocess.Popen[str]:
    variables = {
        "WAY": way,
        "STEPS": str(steps),
        "TURN": " ".join(map(str, turn)),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")])),
    }
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, **variables},
        pass_fds=turn,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def _said(running: subprocess.Popen[str]) -> str:
    output, errors = running.communicate()
    if running.returncode:
        raise SystemExit(f"{running.args!r} ended with {running.returncode}:\n{errors[-2000:]}")
    return output + errors


def traincheck(venv: Path, name: str, way: str) -> Run:
    """One run under TrainCheck."""
    with tempfile.TemporaryDirectory() as place:  # it writes what it makes of a script beside it
        script, _ = (shutil.copy(HERE / file, place) for file in (f"{name}.py", "ways.py"))
        collect = [str(venv / "bin/traincheck-collect"), "--copy-all-files", "--models-to-track", "model"]
        collect += ["--pyscript", script]

        def run(command: Sequence[str]) -> str:
            return _said(_started(command, Path(place), "bare", FEW))

        if way == "traincheck full":
            return told(run([*collect, "--output-dir", f"{place}/out"]))
        run([*collect, "--output-dir", f"{place}/reference"])
        infer = [str(venv / "bin/traincheck-infer"), "-f", f"{place}/reference", "-o", f"{place}/invariants.json"]
        run(infer)
        chosen = ["--invariants", f"{place}/invariants.json", "--output-dir", f"{place}/out"]
        return told(run([*collect, *chosen]))


def rounds(name: str, ways: Sequence[str], pairs: int) -> dict[str, list[Run]]:
    """Each way once a round, beside the others."""
    found: dict[str, list[Run]] = {way: [] for way in ways}
    for _ in range(pairs):
        for way, run in measure(name, ways, SCRIPTS[name]).items():
            found[way].append(run)
    return found


def row(name: str, way: str, watched: Sequence[Run], bare: Sequence[Run], note: str = "") -> str:
    """A line of the table: medians over rounds, and the range of their middle half."""
    pairs = list(zip(watched, bare, strict=True))
    once = statistics.median(w.once - b.once for w, b in pairs)
    step = 1e3 * statistics.median(statistics.median(b.steady) for b in bare)
    opening = more([w.opening / b.opening for w, b in pairs])
    steady = more([sum(w.steady) / sum(b.steady) for w, b in pairs])
    median = more([statistics.median(map(truediv, w.steady, b.steady)) for w, b in pairs])
    return f"| {name} | {step:.2f} | {way}{note} | {once:+.2f} | {opening} | {steady} | {median} |"


def more(shares: Sequence[float]) -> str:
    """Per cent more than bare."""
    shares = sorted(100 * (share - 1) for share in shares)
    middle = statistics.median(shares)
    if len(shares) < 2:
        return f"{middle:+,.1f}"
    low, _, high = statistics.quantiles(shares, n=4, method="inclusive")
    return f"{middle:+,.1f} ({low:+,.1f} to {high:+,.1f})"


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
        plain = [measure(name, ["bare"], FEW)["bare"]]
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
