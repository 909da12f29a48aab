"""What ranks tell each other about themselves, beside the run's own traffic: no collective is ever called here.

A key-value store carries it, the one through which the ranks of the run found each other. Writing never waits for
anybody; reading looks whether all have written, for a limited time. A rank that hangs or dies is missed, never waited
for.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

PREFIX = "sightline"
POLL = 0.02  # seconds between two looks while waiting
STRENGTH = ("not-run", "passed", "allowed", "finding")
SEVERITY = ("note", "warning", "error")


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process's place among `world` ranks, and the store they share."""

    store: Any
    rank: int
    world: int

    def put(self, key: str, value: object) -> bool:
        """Show `value` (JSON) to the others. False when the store is gone, with the rank that kept it."""
        try:
            self.store.set(f"{key}/{self.rank}", json.dumps(value))
        except RuntimeError:  # torch.distributed's errors; the run's own next collective will tell why
            return False
        return True

    def all(self, key: str, timeout: float = 0.0) -> dict[int, Any] | None:
        """Every rank's value by rank, or None when one of them has not shown any after `timeout` seconds."""
        return found if len(found := self.those(key, timeout)) == self.world else None

    def those(self, key: str, timeout: float = 0.0) -> dict[int, Any]:
        """The values of the ranks that have shown one after at most `timeout` seconds."""
        until = time.monotonic() + timeout
        while True:
            try:
                there = [rank for rank in range(self.world) if self.store.check([f"{key}/{rank}"])]
                if len(there) == self.world or time.monotonic() >= until:
                    return {rank: json.loads(self.store.get(f"{key}/{rank}")) for rank in there}
            except RuntimeError:
                return {}
            time.sleep(POLL)


def joined() -> Ranks | None:
    """The ranks of the default process group; None for a run of one rank."""
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() < 2:
        return None
    store = dist.distributed_c10d._get_default_store()  # the only way to a store that all ranks surely share
    return Ranks(dist.PrefixStore(PREFIX, store), dist.get_rank(), dist.get_world_size())


def gathered(
    records: Sequence[Mapping[str, object]], ranks: Ranks | None = None, *, name: str = "0", timeout: float = 5.0
) -> dict[int, list[dict[str, Any]]] | None:
    """Every rank's records on rank 0 (of those that gave any within `timeout` seconds), None on the other ranks.

    Args:
        ranks: an attachment's (``attachment.replicas.ranks``); None asks torch.distributed, and a run that has left it
            counts as one of a single rank.
        name: tells one gathering of a run from another.
    """
    ranks = ranks or joined()
    own = json.loads(json.dumps(list(records), default=str))
    if ranks is None:
        return {0: own}
    ranks.put(f"records/{name}", own)
    return ranks.those(f"records/{name}", timeout) if ranks.rank == 0 else None


def merged(records_by_rank: Mapping[int, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """One record a check for the whole run: a finding if any rank has one, and "not-run" only if none could look.

    A finding says on which `ranks` it was seen, with the numbers of the first of those with the highest severity.
    """
    by_check: dict[str, dict[int, Mapping[str, Any]]] = {}
    for rank in sorted(records_by_rank):
        for record in records_by_rank[rank]:
            by_check.setdefault(str(record["check"]), {})[rank] = record
    return [_one(records) for records in by_check.values()]


def _one(records: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    def strength(rank: int) -> tuple[int, int, int]:
        record = records[rank]
        severity = SEVERITY.index(record["severity"]) if record.get("severity") in SEVERITY else -1
        return STRENGTH.index(record["kind"]), severity, -rank

    chosen = dict(records[max(records, key=strength)])
    alike = [rank for rank, record in records.items() if record["kind"] == chosen["kind"]]
    if "times" in chosen:
        chosen["times"] = sum(records[rank].get("times", 0) for rank in alike)
    if chosen["kind"] == "finding" and len(records) > 1:
        chosen["ranks"] = alike
    return chosen
