"""One report of several ranks: each writes its share beside the file of findings, and all of them make up that file.

A share is written when something is found, and not at the end alone: a rank that is aborted, or that its launcher ends,
has no end. Rank 0 waits for the others at its own end; until then whoever writes adds the shares that there are. Only
files are used: at the end of a script its process groups are gone. Ranks on other machines are read where the
folder is shared, and named as missing where it is not.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightline.attach.script.report import write

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


def report(
    own: dict[str, Any], facts: Mapping[str, Any], findings: Path, rank: Rank, since: float
) -> tuple[dict[str, Any], list[int]]:
    """Write what this rank knows: its share, then the report of all. `since`: when the run began.

    At its end rank 0 waits for the others. Returns the report, and the ranks that are not over (at rank 0's end).
    """
    if not rank.first:
        write(share_of(findings, rank.number), own, facts)
        with _alone(findings):
            known = _read(findings, since)
            whole = _added(known or {kind: [] for kind in KINDS}, {rank.number: own})
            write(findings, whole, known["run"] if known else {**facts, "status": None})
        return own, []
    with _alone(findings):
        whole = _added(own, _shares(findings, rank.world, since))
        write(findings, whole, {**facts, "status": None})
    if facts["status"] is None:
        return whole, []
    shares = _awaited(findings, rank.world, since)
    whole = _added(own, shares)
    with _alone(findings):
        write(findings, whole, facts)
    return whole, [r for r in range(1, rank.world) if r not in shares or shares[r]["run"]["status"] is None]


def _awaited(findings: Path, world: int, since: float) -> dict[int, dict[str, Any]]:
    """The shares of the others, once they are over or patience is."""
    until = time.monotonic() + PATIENCE
    while True:
        shares = _shares(findings, world, since)
        over = sum(share["run"]["status"] is not None for share in shares.values())
        if over == world - 1 or time.monotonic() >= until:
            return shares
        time.sleep(0.05)


@contextmanager
def _alone(findings: Path) -> Iterator[None]:
    """Inside, no other rank of this machine adds to the report."""
    try:
        import fcntl
    except ImportError:  # not on Windows, where launchers of several ranks are rare
        yield
        return
    folder = os.open(findings.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _shares(findings: Path, world: int, since: float) -> dict[int, dict[str, Any]]:
    """What ranks other than 0 have written so far, by rank."""
    found = {rank: _read(share_of(findings, rank), since) for rank in range(1, world)}
    return {rank: share for rank, share in found.items() if share is not None}


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
    """What a rank has written in this run, if anything."""
    try:
        told: dict[str, Any] = json.loads(share.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:  # somebody else's file, of the same name
        return None
    return told if told.get("run", {}).get("ended", 0.0) >= since else None
