"""What the watch knows, told: on a console, and as `findings.jsonl` lines (one record a check)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from sightline.guard.check import Finding

STYLE = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def as_lines(records: Sequence[Mapping[str, object]]) -> str:
    """The records as JSON lines."""
    return "".join(json.dumps(record, default=str, ensure_ascii=False) + "\n" for record in records)


def told(finding: Finding) -> str:
    """One finding in plain text: what, proof, fix, and where to read more."""
    at = "" if finding.step is None else f" (step {finding.step})"
    proof = proven(finding.seen)
    lines = [f"{finding.severity} {finding.code} {finding.check}{at}: {finding.message}"]
    lines += [f"  seen: {proof}"] if proof else []
    return "\n".join([*lines, f"  fix: {finding.fix}", f"  more: sightline explain {finding.code}"])


def proven(seen: Mapping[str, object]) -> str:
    """What was measured, in a line; what could not be measured is left out."""
    return ", ".join(f"{name} {_short(value)}" for name, value in seen.items() if value is not None)


def print_finding(finding: Finding) -> None:
    """Print one finding on the console's error stream."""
    from rich.console import Console
    from rich.text import Text

    head, _, rest = told(finding).partition("\n")
    console = Console(stderr=True, soft_wrap=True)
    console.print(Text(head, style=STYLE[finding.severity]))
    console.print(Text(rest))


def print_summary(records: Sequence[Mapping[str, object]]) -> None:
    """Print what was found, what was allowed and why, what passed, and what could not be seen."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, soft_wrap=True)
    by_kind = {kind: [r for r in records if r["kind"] == kind] for kind in ("finding", "allowed", "passed", "not-run")}
    console.print(Text("guard: " + ", ".join(f"{len(rows)} {kind}" for kind, rows in by_kind.items())))
    for record in by_kind["finding"]:
        style = STYLE[str(record["severity"])]
        console.print(Text(f"  {record['code']:<4}{record['check']}: {record['message']}", style=style))
    for record in by_kind["allowed"]:
        console.print(Text(f"  {record['code']:<4}{record['check']}: allowed, because {record['reason']}"))
    for record in by_kind["not-run"]:
        console.print(Text(f"  {record['code']:<4}{record['check']}: not run: {record['why']}", style="dim"))


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
