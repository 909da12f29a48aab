"""Published silent errors against the guard, a spike detector and TrainCheck.

    python benchmarks/silent_errors/run.py [--traincheck VENV] [--only ID ...] [--parts guard spikes traincheck]
                                           [--cache FILE.json] [--output RESULTS.md] [--again]

For each folder beside this file: `sightline run --findings` on faulty.py and clean.py; `spikes.py` on both; and, where
VENV holds TrainCheck 0.2.0, its three tools (see `traincheck.py`): invariants inferred from three clean runs with other
seeds, then checked on the faulty run ("raw") and on a fourth clean run, whose violations are subtracted. Scripts of
several ranks run under torch's own launcher. An error is caught by an error or a warning on faulty.py; notes are shown.

One script runs at a time. Each answer is kept in the cache as soon as it is there, with a hash of what it depends on
(the scripts and the tool), so that a run that was broken off goes on where it was, and a change of the guard asks the
guard anew and nobody else. `--again` also repeats what failed. The table is written from the cache after each answer.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import traincheck

HERE = Path(__file__).parent
SOURCE = HERE.parents[1] / "src/sightline"
LAUNCH = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
SECONDS = 300  # for one run of one script: they need seconds, and a loaded machine ten times that
PARTS = ("guard", "spikes", "traincheck")
WAYS = ("faulty", "clean")
LEFT_OUT = {
    "pytorch-96600": "the same cause and traces as pytorch-84803 (also in the paper's artifact)",
    "baichuan2-86": "the same cause and traces as pytorch-84803 (also in the paper's artifact)",
    "transformers-17877": "weights are initialised several times: slower construction, nothing that training shows",
    "transformers-23723": "a limit of generation with long prompts: inference, no training",
}
Answers = dict[str, dict[str, Any]]  # id -> part -> {"of": hash, "when": date, and what was said}


def ranked(folder: Path) -> bool:
    """Whether the scripts join a process group."""
    return "init_process_group" in (folder / "clean.py").read_text(encoding="utf-8")


def run(command: list[str], folder: Path) -> tuple[str, bool]:
    """(standard output, whether it ended in time) of a command, with one thread, no hub and seed 0."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "SEED": "0"}
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=SECONDS)
        return said, True
    except subprocess.TimeoutExpired:
        return "", False
    finally:
        if process.poll() is None:  # and all that it started
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def guarded(folder: Path, place: Path) -> dict[str, Any]:
    """The findings of `sightline run`, and what its report says of itself, for both scripts."""
    answer: dict[str, Any] = {}
    for way in WAYS:
        told = place / f"{way}.json"
        launch = LAUNCH if ranked(folder) else ()
        watched = ["-m", "sightline", "run", "--findings", str(told), str(folder / f"{way}.py")]
        _, ended = run([*launch, *watched], place)
        if told.exists():
            report = json.loads(told.read_text(encoding="utf-8"))
            kept = ("code", "check", "severity", "step", "message")
            answer[way] = [{key: finding.get(key) for key in kept} for finding in report["findings"]]
            answer[f"{way} problems"] = report.get("run", {}).get("problems", [])
        else:
            answer[way] = []
            answer[f"{way} problems"] = ["no report was written" if ended else f"no end within {SECONDS} s"]
            answer["failed"] = True
    return answer


def spiked(folder: Path, place: Path) -> dict[str, Any]:
    """What the spike detector says of both scripts: {"verdict": null | "...", "step": n}."""
    answer: dict[str, Any] = {}
    for way in WAYS:
        said, ended = run(
            [*(LAUNCH if ranked(folder) else ()), str(HERE / "spikes.py"), str(folder / f"{way}.py")], place
        )
        lines = [line for line in said.splitlines() if line.startswith("{")]
        if lines:
            answer[way] = json.loads(lines[-1])
        else:
            answer[way] = {"verdict": None, "step": None, "why": "no losses" if ended else f"no end within {SECONDS} s"}
            answer["failed"] = answer.get("failed", False) or not ended
    return answer


def digest(part: str, folder: Path) -> str:
    """What an answer depends on."""
    files = [folder / f"{way}.py" for way in WAYS]
    files += {"guard": sorted(SOURCE.rglob("*.py")), "spikes": [HERE / "spikes.py"], "traincheck": []}[part]
    found = hashlib.sha256()
    for file in files:
        found.update(str(file.relative_to(HERE.parents[1])).encode() + b"\0" + file.read_bytes())
    return found.hexdigest()[:16]


def examine(folder: Path, part: str, venv: Path | None, place: Path) -> dict[str, Any]:
    """One part of what is to be said of one error."""
    if part == "traincheck":
        assert venv is not None
        answer = traincheck.examine(venv, folder, place, ranked=ranked(folder))
        return {**answer, "failed": True} if answer["why"] else answer
    ask: Mapping[str, Callable[[Path, Path], dict[str, Any]]] = {"guard": guarded, "spikes": spiked}
    return ask[part](folder, place)


def keep(cache: Path, answers: Answers) -> None:
    """Write all answers, whole or not at all."""
    made = cache.with_suffix(".part")
    made.write_text(json.dumps(answers, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(made, cache)


# --- the table ---------------------------------------------------------------------------------------------------


def told(answer: Mapping[str, Any] | None, way: str) -> str:
    """The guard's findings as a cell."""
    if answer is None:
        return "not run"
    said = [f"{f['code']} {f['check']} ({f['severity']}, step {f['step']})" for f in answer[way]]
    return "<br>".join(said + [str(problem) for problem in answer[f"{way} problems"]]) or "-"


def spike(answer: Mapping[str, Any] | None, way: str) -> str:
    """The spike detector's word as a cell."""
    if answer is None:
        return "not run"
    seen = answer[way]
    return f"{seen['verdict']}, step {seen['step']}" if seen["verdict"] else seen.get("why", "-")


def violations(answer: Mapping[str, Any] | None) -> str:
    """TrainCheck's count as a cell."""
    if answer is None:
        return "not run"
    if answer["why"]:
        return f"could not run: {answer['why']}"
    first = f", first at step {answer['step']}" if answer["step"] is not None else ""
    style = "" if answer["style"] == traincheck.STYLES[0] else f" ({answer['style']})"
    counts = f"{answer['raw']} raw, {answer['clean']} on clean, **{answer['new']} new** of {answer['invariants']}"
    return counts + first + style


def serious(answer: Mapping[str, Any] | None, way: str) -> bool:
    """Whether the guard found an error or a warning."""
    return answer is not None and any(f["severity"] != "note" for f in answer[way])


def table(answers: Answers, names: list[str]) -> str:
    """The whole page."""
    guard = {name: answers.get(name, {}).get("guard") for name in names}
    spikes = {name: answers.get(name, {}).get("spikes") for name in names}
    checked = {name: answers.get(name, {}).get("traincheck") for name in names}
    asked = [name for name in names if guard[name] is not None]
    could = [a for a in checked.values() if a is not None and not a["why"]]
    heard = [a for a in spikes.values() if a is not None]
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    when = max((a["when"] for part in answers.values() for a in part.values()), default="never")
    lines = [
        "# Published silent errors: what is seen of them",
        "",
        f"{when}, `python benchmarks/silent_errors/run.py --traincheck VENV`, {machine}. Written from",
        "[results.json](results.json). The errors are those of TrainCheck (OSDI 2025, arXiv 2506.14813), reproduced",
        "here from their reports in a few lines each, each with a clean twin.",
        "",
        "| | faulty scripts noticed | clean twins with an alarm |",
        "|---|---|---|",
        f"| `sightline run`, errors and warnings | {_of(asked, guard, 'faulty')} | {_of(asked, guard, 'clean')} |",
        f"| spike detector | {sum(bool(a['faulty']['verdict']) for a in heard)} of {len(heard)} |"
        f" {sum(bool(a['clean']['verdict']) for a in heard)} of {len(heard)} |",
        f"| TrainCheck 0.2.0, raw | {sum(a['raw'] > 0 for a in could)} of {len(could)} |"
        f" {sum(a['clean'] > 0 for a in could)} of {len(could)} |",
        f"| TrainCheck 0.2.0, less what it says of the clean run | {sum(a['new'] > 0 for a in could)} of {len(could)} |"
        " by construction 0 |",
        "",
        "TrainCheck first learns its invariants from three clean runs of a script; the others know no clean run.",
        "A violation left over need not tell of the fault: which invariants are broken is not judged here.",
        "",
        "| error | sightline on faulty.py | on clean.py | spikes on faulty.py | on clean.py | TrainCheck 0.2.0 |",
        "|---|---|---|---|---|---|",
    ]
    for name in names:
        cells = [told(guard[name], "faulty"), told(guard[name], "clean")]
        cells += [spike(spikes[name], "faulty"), spike(spikes[name], "clean"), violations(checked[name])]
        lines.append(f"| {name} | {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    lines += ["", "Not reproduced:", "", *(f"- {name}: {why}" for name, why in LEFT_OUT.items()), ""]
    return "\n".join(lines)


def _of(names: list[str], guard: Mapping[str, Mapping[str, Any] | None], way: str) -> str:
    return f"{sum(serious(guard[name], way) for name in names)} of {len(names)}"


def main() -> None:
    """Ask what the cache does not know, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--traincheck", type=Path, help="a virtual environment with traincheck 0.2.0")
    parser.add_argument("--only", nargs="*", default=[], metavar="ID")
    parser.add_argument("--parts", nargs="*", default=PARTS, choices=PARTS, help="an empty list: the table alone")
    parser.add_argument("--cache", type=Path, default=HERE / "results.json")
    parser.add_argument("--output", type=Path, default=HERE / "RESULTS.md")
    parser.add_argument("--again", action="store_true", help="repeat what failed")
    given = parser.parse_args()
    venv = given.traincheck.absolute() if given.traincheck else None  # not resolved: it may be links
    folders = {p.parent.name: p.parent for p in sorted(HERE.glob("*/faulty.py"))}
    for part in given.parts:
        for name, folder in folders.items():
            if (given.only and name not in given.only) or (part == "traincheck" and venv is None):
                continue
            answers = json.loads(given.cache.read_text(encoding="utf-8")) if given.cache.exists() else {}
            of, known = digest(part, folder), answers.get(name, {}).get(part, {})
            if known.get("of") == of and not (given.again and known.get("failed")):
                continue
            with tempfile.TemporaryDirectory() as place:
                answer = examine(folder, part, venv, Path(place))
            when = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
            answers = json.loads(given.cache.read_text(encoding="utf-8")) if given.cache.exists() else {}
            answers.setdefault(name, {})[part] = {**answer, "of": of, "when": when}
            keep(given.cache, answers)
            print(name, part, json.dumps(answer), flush=True)
            given.output.write_text(table(answers, list(folders)), encoding="utf-8")
    answers = json.loads(given.cache.read_text(encoding="utf-8")) if given.cache.exists() else {}
    given.output.write_text(table(answers, list(folders)), encoding="utf-8")


if __name__ == "__main__":
    main()
