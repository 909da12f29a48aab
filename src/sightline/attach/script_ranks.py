"""One report of several ranks: each writes its share beside the file of findings, and rank 0 adds them to its own.

Only files are used: at the end of a script its process groups are gone. Ranks on other machines are read where the
folder is shared, and named as missing where it is not.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATIENCE = 10.0  # seconds that rank 0 waits for the others at the end: they left the last collective together
KINDS = ("findings", "not_run", "passed", "allowed")


@dataclass(frozen=True, slots=True)
class Rank:
    """This process among those of its launcher (`RANK` and `WORLD_SIZE`, as torchrun sets them)."""

    number: int
    world: int

    @property
    def first(self) -> bool:
        """Whether this rank writes the report and answers for the status."""
        return self.number == 0


def this_rank() -> Rank:
    """Rank 0 of 1 where no launcher says otherwise."""
    number, world = (os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE"))
    return Rank(int(number), int(world)) if number.isdigit() and world.isdigit() else Rank(0, 1)


def share_of(findings: Path, rank: int) -> Path:
    """Where a rank other than 0 writes its part: `findings.rank1.json` beside `findings.json`."""
    return findings if rank == 0 else findings.with_name(f"{findings.stem}.rank{rank}{findings.suffix}")


def gathered(own: dict[str, Any], findings: Path, world: int, since: float) -> tuple[dict[str, Any], list[int]]:
    """Rank 0's verdicts with what only others found, and the ranks that said nothing. `since`: when the run began."""
    waiting, shares = set(range(1, world)), {}
    until = time.monotonic() + PATIENCE
    while waiting and time.monotonic() < until:
        for rank in sorted(waiting):
            if (share := _read(share_of(findings, rank), since)) is not None:
                shares[rank] = share
        waiting -= shares.keys()
        if waiting:
            time.sleep(0.05)
    return _added(own, shares), sorted(waiting)


def _added(own: dict[str, Any], shares: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Found on any rank is found; else passed on any is passed."""
    found = list(own["findings"])
    for rank, share in sorted(shares.items()):
        known = {finding["check"] for finding in found}
        found += [{**finding, "rank": rank} for finding in share["findings"] if finding["check"] not in known]
    done = {finding["check"] for finding in found}
    rest: dict[str, list[Any]] = {}
    for kind in ("allowed", "passed", "not_run"):
        every = [record for part in (own, *shares.values()) for record in part[kind] if record["check"] not in done]
        rest[kind] = list({record["check"]: record for record in reversed(every)}.values())[::-1]
        done |= {record["check"] for record in rest[kind]}
    return {"not_run": rest["not_run"], "findings": found, "passed": rest["passed"], "allowed": rest["allowed"]}


def _read(share: Path, since: float) -> dict[str, Any] | None:
    """A rank's last word in this run, if it has been written."""
    try:
        told: dict[str, Any] = json.loads(share.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    run = told["run"]
    return {kind: told[kind] for kind in KINDS} if run["status"] is not None and run["ended"] >= since else None
