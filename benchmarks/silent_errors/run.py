"""Published silent errors against the guard, a spike detector and TrainCheck.

    python benchmarks/silent_errors/run.py [--traincheck VENV] [--only ID ...] [--output RESULTS.md]

For each folder beside this file: `sightline run --findings` on faulty.py and clean.py; `spikes.py` on both; and, where
VENV holds TrainCheck, its three tools: invariants inferred from three clean runs with other seeds, then checked on
the faulty run ("raw") and on a fourth clean run, whose violations are subtracted. Scripts of several ranks run under
torch's own launcher. Notes are counted apart: an error is caught by an error or a warning on faulty.py.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LAUNCH = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
SECONDS = 300
REFERENCES = 3
LEFT_OUT = {
    "pytorch-96600": "the same cause and traces as pytorch-84803 (also in the paper's artifact)",
    "baichuan2-86": "the same cause and traces as pytorch-84803 (also in the paper's artifact)",
    "transformers-17877": "weights are initialised several times: slower construction, nothing that training shows",
    "transformers-23723": "a limit of generation with long prompts: inference, no training",
}


@dataclass
class Row:
    """What was seen of one error."""

    name: str
    found: list[dict[str, Any]] = field(default_factory=list)
    false: list[dict[str, Any]] = field(default_factory=list)
    spike: str = ""
    spike_clean: str = ""
    traincheck: str = "not run"


def environment(seed: int = 0) -> dict[str, str]:
    """One thread, no hub, this seed."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "SEED": str(seed)}


def ranks(script: Path) -> tuple[str, ...]:
    """The launcher's arguments where the script joins a process group."""
    return LAUNCH if "init_process_group" in script.read_text(encoding="utf-8") else ()


def guarded(script: Path, folder: Path) -> list[dict[str, Any]]:
    """The findings of `sightline run`."""
    told = folder / f"{script.stem}.json"
    command = [sys.executable, *ranks(script), "-m", "sightline", "run", "--findings", str(told), str(script)]
    subprocess.run(command, cwd=folder, env=environment(), capture_output=True, timeout=SECONDS, check=False)
    if not told.exists():
        return [{"code": "?", "severity": "error", "check": "no report was written", "step": None, "message": ""}]
    return list(json.loads(told.read_text(encoding="utf-8"))["findings"])


def spiked(script: Path, folder: Path) -> str:
    """What the spike detector says, or nothing."""
    command = [sys.executable, *ranks(script), str(HERE / "spikes.py"), str(script)]
    said = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=SECONDS, check=False
    )
    lines = [line for line in said.stdout.splitlines() if line.startswith("{")]
    seen = json.loads(lines[-1]) if lines else {"verdict": "no losses", "step": None}
    return f"{seen['verdict']}, step {seen['step']}" if seen["verdict"] else ""


def traincheck(venv: Path, folder: Path, place: Path) -> str:
    """Violations on the faulty run: raw, and without those that a clean run also shows."""
    if ranks(folder / "clean.py"):
        return "not run (several ranks)"
    traces = []
    for number in range(REFERENCES + 2):
        faulty = number == REFERENCES + 1
        work = place / f"trace{number}"
        work.mkdir()
        shutil.copy(folder / ("faulty.py" if faulty else "clean.py"), work / "train.py")
        command = [str(venv / "bin/traincheck-collect"), "--pyscript", "train.py", "--models-to-track", "model"]
        seed = 0 if faulty else number + 1
        if (bad := _quietly([*command, "--output-dir", "out"], work, seed)) is not None:
            return f"collect failed: {bad}"
        traces.append(str(work / "out"))
    infer = [str(venv / "bin/traincheck-infer"), "-f", *traces[:REFERENCES], "-o", "invariants.json"]
    if (bad := _quietly(infer, place)) is not None:
        return f"infer failed: {bad}"
    broken = []
    for trace in traces[REFERENCES:]:
        out = f"check-{Path(trace).parent.name}"
        check = [
            str(venv / "bin/traincheck-check"),
            "-f",
            trace,
            "-i",
            "invariants.json",
            "-o",
            out,
            "--no-html-report",
        ]
        if (bad := _quietly(check, place)) is not None:
            return f"check failed: {bad}"
        broken.append(_violations(place / out))
    clean, faulty_run = broken
    total = len((place / "invariants.json").read_text(encoding="utf-8").splitlines())
    return f"{len(faulty_run)} raw, {len(faulty_run - clean)} new ({len(clean)} on clean) of {total}"


def _quietly(command: list[str], folder: Path, seed: int = 0) -> str | None:
    """Run it; its last words where it fails."""
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment(seed), capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no end within {SECONDS} s"
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["?"])[-1][:120]


def _violations(folder: Path) -> set[str]:
    """The invariants that a check found broken, as text: `failed.log` holds one JSON object after another."""
    found = set()
    for log in folder.rglob("failed*.log"):
        text, decoder, at = log.read_text(encoding="utf-8"), json.JSONDecoder(), 0
        while (at := text.find("{", at)) >= 0:
            record, at = decoder.raw_decode(text, at)
            found.add(json.dumps(record.get("invariant", record), sort_keys=True))
    return found


def examine(folder: Path, venv: Path | None) -> Row:
    """Everything about one error."""
    row = Row(folder.name)
    with tempfile.TemporaryDirectory() as place:
        row.found, row.false = (guarded(folder / f"{way}.py", Path(place)) for way in ("faulty", "clean"))
        row.spike, row.spike_clean = (spiked(folder / f"{way}.py", Path(place)) for way in ("faulty", "clean"))
        if venv is not None:
            row.traincheck = traincheck(venv, folder, Path(place))
    return row


def told(findings: list[dict[str, Any]]) -> str:
    """Findings as a cell of the table."""
    return "<br>".join(f"{f['code']} {f['check']} ({f['severity']}, step {f['step']})" for f in findings) or "-"


def table(rows: list[Row], venv: Path | None) -> str:
    """The whole page."""
    serious = [[f for f in row.found if f["severity"] != "note"] for row in rows]
    caught = sum(bool(found) for found in serious)
    false = sum(any(f["severity"] != "note" for f in row.false) for row in rows)
    command = f"python benchmarks/silent_errors/run.py{' --traincheck VENV' if venv else ''}"
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    lines = [
        "# Published silent errors: what is seen of them",
        "",
        f"{datetime.date.today().isoformat()}, `{command}`, {machine}. The errors are those of TrainCheck",
        "(OSDI 2025, arXiv 2506.14813), reproduced here from their reports in a few lines each.",
        "",
        f"Caught by `sightline run`: **{caught} of {len(rows)}**; clean twins with an error or a warning: **{false}**.",
        "",
        "| error | sightline on faulty.py | on clean.py | spike detector on faulty.py (clean.py) | TrainCheck 0.2.0 |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        spike = f"{row.spike or '-'} ({row.spike_clean or '-'})"
        lines.append(f"| {row.name} | {told(row.found)} | {told(row.false)} | {spike} | {row.traincheck} |")
    lines += ["", "Not reproduced:", "", *(f"- {name}: {why}" for name, why in LEFT_OUT.items()), ""]
    return "\n".join(lines)


def main() -> None:
    """Run all and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--traincheck", type=Path, help="a virtual environment with traincheck 0.2.0")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--output", type=Path, default=HERE / "RESULTS.md")
    given = parser.parse_args()
    folders = sorted(p.parent for p in HERE.glob("*/faulty.py"))
    rows = []
    for folder in folders:
        if not given.only or folder.name in given.only:
            rows.append(examine(folder, given.traincheck.resolve() if given.traincheck else None))
            row = rows[-1]
            print(
                f"{row.name}: {told(row.found)} | clean {told(row.false)} | {row.spike} | {row.traincheck}", flush=True
            )
    given.output.write_text(table(rows, given.traincheck), encoding="utf-8")


if __name__ == "__main__":
    main()
