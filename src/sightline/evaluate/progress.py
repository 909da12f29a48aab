"""What is told of long work: how many rows are done, of how many."""

from __future__ import annotations

from collections.abc import Callable


def counter(progress: Callable[[int, int], None] | None, total: int) -> Callable[[int], None]:
    """Told how many more are done, it tells `progress` (done so far, `total`)."""
    done = 0

    def tell(more: int) -> None:
        nonlocal done
        done += more
        if progress:
            progress(min(done, total), total)

    return tell
