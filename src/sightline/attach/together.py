"""Rows of several ranks that train one model, as those of one: what one evaluates may be what another trained on.

Each rank shows a sample of the hashes of its rows, the smallest ones: the same rows on all ranks, whoever saw them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from sightline.attach.onlookers.repeats import counted
from sightline.attach.onlookers.shared_rows import OLD, PART, SharedRows
from sightline.attach.ranks import Ranks
from sightline.guard.evidence import SharedRowsSeen

MOST = 4096  # rows of either kind that a rank shows: 0.2 MB in all
DIGITS = 16  # of a row's hash: among a million rows, two are alike once in ten million runs
LATER, OTHERS = 32, 0.02  # rows trained on after the first batches of all ranks; of them at most so many were not known

Shown = dict[str, Any]


def shown(rows: SharedRows) -> Shown:
    """What one rank tells the others, as JSON has it."""
    limit = min(_limit(rows.trained), _limit(rows.evaluated))

    def kept(values: Mapping[bytes, int]) -> dict[str, int]:
        return {name: value for row, value in values.items() if (name := row.hex()[:DIGITS]) <= limit}

    return {
        "limit": limit,
        "trained": kept(rows.trained),
        "judged": [[at, list(kept(dict.fromkeys(batch, 0)))] for at, batch in rows.judged],
        "later": [[at, list(kept(dict.fromkeys(batch, 0)))] for at, batch in rows.later],
        "counts": [kept(side.rows) for side in (rows.repeats.trained, rows.repeats.evaluated)],
        "complete": rows.complete,
        "pairs": rows.pairs,
        "twins": rows.twins,
    }


def _limit(rows: Collection[bytes]) -> str:
    """The largest hash that is shown."""
    return sorted(rows)[MOST - 1].hex()[:DIGITS] if len(rows) > MOST else "g"


def judged_together(ranks: Ranks, name: str, rows: SharedRows, timeout: float) -> SharedRowsSeen | None:
    """On rank 0, what all ranks saw; None on the others, and where one has told nothing."""
    ranks.put(f"rows/{name}", shown(rows))
    if ranks.rank != 0 or rows.final is None:
        return None
    every = ranks.all(f"rows/{name}", timeout)
    return None if every is None else united(every, rows.final)


def united(every: Mapping[int, Shown], own: SharedRowsSeen) -> SharedRowsSeen | None:
    """What each rank has shown, as one; `own`: what rank 0 saw, for whatever is not compared over ranks."""
    limit = min(one["limit"] for one in every.values())
    trained: dict[str, int] = {}
    for one in every.values():
        for name, first in one["trained"].items():
            if name <= limit:
                trained[name] = min(first, trained.get(name, first))
    judged = [(at, [name for name in batch if name <= limit]) for one in every.values() for at, batch in one["judged"]]
    judged = [(at, batch) for at, batch in judged if batch]
    if not judged or not trained:
        return None

    def known(at: int, batch: list[str]) -> list[bool]:
        return [trained.get(name, at) < at for name in batch]

    complete = all(one["complete"] for one in every.values())
    later = [old for one in every.values() for at, batch in one["later"] for old in known(at, batch)]
    sure = len(later) >= LATER and later.count(False) <= OTHERS * len(later)
    met, abroad = _met(every, limit)
    last, mixed, kinds, shared = max(at for at, _ in judged), 0, set(), set()
    for at, batch in judged:
        old = known(at, batch)
        least = 1 if complete else max(2, PART * len(batch)) if sure else math.inf
        mixed += any(old) and old.count(False) >= least
        shared |= {name for name, is_old in zip(batch, old, strict=True) if is_old}
        if at == last:
            kinds.add("old" if sum(old) >= OLD * len(old) else "both" if any(old) else "new")
    return replace(
        own,
        trained=len(trained),
        evaluated=len({name for _, batch in judged for name in batch}),
        shared=len(shared),
        mixed=mixed,
        complete=complete,
        apart=kinds == {"old", "new"},
        pairs=sum(one["pairs"] for one in every.values()),
        twins=sum(one["twins"] for one in every.values()),
        abroad=abroad / max(1, len(every) - 1),
        own=met,
        worst=(),
        views=None,  # of what other ranks trained on
        pictures=None,
        repeats=counted(*(_sum([one["counts"][side] for one in every.values()], limit) for side in (0, 1))),
    )


def _sum(counts: Iterable[Mapping[str, int]], limit: str) -> Counter[str]:
    total: Counter[str] = Counter()
    for one in counts:
        total.update({name: count for name, count in one.items() if name <= limit})
    return total


def _met(every: Mapping[int, Shown], limit: str) -> tuple[int, int]:
    """Of what a rank evaluates, the rows that it had trained on; and the same of each other rank, added up."""
    own = abroad = 0
    for rank, one in every.items():
        last = {name: at for at, batch in one["judged"] for name in batch if name <= limit}
        for other, two in every.items():
            met = sum(two["trained"].get(name, at) < at for name, at in last.items())
            own, abroad = (own + met, abroad) if other == rank else (own, abroad + met)
    return own, abroad
