"""What `sightline run` tells: a file for programs, and a short list for people. Plain text, and no library needed."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sightline.atomic import write_json
from sightline.guard.check import Finding
from sightline.guard.report import proven, told

Record = Mapping[str, object]
COLOURS = {"error": "\033[1;31m", "warning": "\033[33m", "note": "\033[36m"}
RANK = {"error": 0, "warning": 1, "note": 2}
SHOWN = 3  # reasons for what was not run that are told in words; the file has them all


def merged(models: Sequence[tuple[str, Sequence[Record]]], nothing: Sequence[Record]) -> dict[str, list[Record]]:
    """Verdicts on several models as one: found on any of them, else passed on one, else not run, else allowed.

    `models`: name -> its records. `nothing`: the records of a run in which no model was seen.
    """
    every = [(name, record) for name, records in models for record in records]
    found = [
        {"model": name, **{key: value for key, value in record.items() if key != "kind"}}
        for name, record in every
        if record["kind"] == "finding"
    ]
    found.sort(key=lambda record: RANK[str(record["severity"])])
    allowed = {r["check"]: _plain(r) for _, r in every if r["kind"] == "allowed"}
    done = {record["check"] for record in found} | set(allowed)
    passed = {r["check"]: _plain(r) for _, r in every if r["kind"] == "passed" and r["check"] not in done}
    done |= set(passed)
    unseen = [r for _, r in every if r["kind"] == "not-run"] if models else list(nothing)
    not_run = {r["check"]: _plain(r) for r in unseen if r["check"] not in done}
    return {
        "not_run": list(not_run.values()),
        "findings": list(found),
        "passed": list(passed.values()),
        "allowed": list(allowed.values()),
    }


def _plain(record: Record) -> dict[str, object]:
    return {key: value for key, value in record.items() if key != "kind"}


def write(path: Path, verdicts: Mapping[str, Any], run: Mapping[str, object]) -> None:
    """Write everything that is known, atomically."""
    write_json(path, _json({**verdicts, "run": dict(run)}))


def _json(value: Any) -> Any:
    """As JSON has it: no NaN, and strings for what it has no word for."""
    if isinstance(value, Mapping):
        return {str(key): _json(part) for key, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_json(part) for part in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def say(text: str, style: str = "") -> None:
    """A line on the process's own error stream, whatever the script made of `sys.stderr`."""
    stream = sys.__stderr__
    if stream is None or stream.closed:
        return
    colour = COLOURS.get(style, "") if stream.isatty() and "NO_COLOR" not in os.environ else ""
    try:
        stream.write(f"{colour}{text}\033[0m\n" if colour else f"{text}\n")
        stream.flush()
    except OSError:  # nobody reads it any more
        return


def say_finding(finding: Finding, where: str = "") -> None:
    """One finding, when it is found. `where`: what its line begins with."""
    head, _, rest = told(finding).partition("\n")
    say(f"sightline: {where}{head}", finding.severity)
    say(rest)


def say_end(verdicts: Mapping[str, Sequence[Record]], run: Mapping[str, Any]) -> None:
    """The list at the end of a run."""
    models = run["models"]
    watched = ", ".join(
        f"{m['name']} ({m['steps']} steps{', rank ' + str(m['rank']) if 'rank' in m else ''})" for m in models
    )
    found = verdicts["findings"]
    counts = f"{len(found)} found, {len(verdicts['passed'])} passed, {len(verdicts['not_run'])} not run"
    say(f"sightline: watched {watched}: {counts}" if models else f"sightline: {run['seen']}")
    for record in found:
        at = "" if record.get("step") is None else f" (step {record['step']})"
        place = f" [{record['model']}]" if len(models) > 1 else ""
        place += f" [rank {record['rank']}]" if "rank" in record else ""
        say(
            f"  {record['severity']} {record['code']} {record['check']}{at}{place}: {record['message']}", _style(record)
        )
        if proof := proven(dict(record.get("evidence") or {})):  # type: ignore[call-overload]
            say(f"    seen: {proof}")
        say(f"    fix: {record['fix']}")
    for problem in run["problems"]:
        say(f"  not watched to the end: {problem}")
    if found:
        say("  more: sightline explain CODE")


def _style(record: Record) -> str:
    return str(record["severity"])
