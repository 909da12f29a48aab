"""audit: open every image of a data set before training, so that no broken one stops the run at its third hour."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from sightline.data.dataset import Rows
from sightline.data.encode import RowError
from sightline.data.images import probe_image
from sightline.data.row import Skipped


@dataclass(frozen=True, slots=True)
class Audit:
    """`rows` without those of broken images; how many distinct `images` there are, and how many were `opened`."""

    rows: Rows
    images: int
    opened: int


def audit(rows: Rows, broken: Literal["error", "skip"] = "error", *, seconds: float | None = None) -> Audit:
    """Decode each distinct image once.

    Args:
        broken: "error" raises at the first broken image; "skip" leaves its rows out and counts them.
        seconds: stop opening images after this long; images not opened count as sound.

    Raises:
        RowError: an image is broken and `broken` is "error".
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    known: dict[str, str | None] = {}  # image key -> why it is broken
    opened, kept, skipped = 0, [], []
    for row in rows:
        reason = None
        for ref in row.images:
            if ref.key not in known:
                known[ref.key] = None
                if deadline is None or time.monotonic() < deadline:
                    opened += 1
                    try:
                        probe_image(ref, row.where)
                    except RowError as error:
                        if broken == "error":
                            raise
                        known[ref.key] = error.what
            reason = reason or known[ref.key]
        if reason is None:
            kept.append(row)
        else:
            skipped.append(Skipped(row.where, reason))
    return Audit(Rows(tuple(kept), rows.skipped + tuple(skipped)), len(known), opened)
