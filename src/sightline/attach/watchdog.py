"""A thread beside each rank that notices when all ranks wait for ever, each for another collective, and tells it then.

Nothing else could: such a process runs no line of Python any more, until its launcher kills it. The thread sleeps,
looks at the stack of the thread that trains, and writes to the ranks' store only once that has stood still for long. It
calls no collective and touches no tensor.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType

import torch

from sightline.attach.ranks import Ranks
from sightline.errors import UserError
from sightline.guard.evidence import RanksStuckSeen, StuckRank

PATIENCE = 30.0  # seconds at least: a checkpoint is written in less, and launchers give up after minutes
TIMES = 20.0  # the longest step: an evaluation or a compilation is no hang
LOOKS = 8  # within that time
BUSY = 0.5  # of the time spent by the processor: it computes, and does not wait
OURS, TORCH = (str(Path(file).parent) for file in (__file__, torch.__file__))
WAITING = ("torch.distributed.", "torch.nn.parallel.distributed", "torch.autograd")  # modules that wait for other ranks
WRAPPERS = ("wrapper", "wrapped", "inner", "_fn", "backward", "_engine_run_backward")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a thread stands. `call`: what it waits in, None where it may be at work; `frames`: to tell any movement."""

    call: str | None
    line: str
    frames: tuple[tuple[int, int], ...]


class Watchdog:
    """Watches the thread that makes it.

    Args:
        ranks, name: where ranks show themselves to each other, and this model's name there.
        progress: numbers that change with every step, the first of them optimizer steps; tell: takes the evidence.
        patience: seconds without any movement, after which a rank counts as stuck (and `TIMES` the longest step).
    """

    def __init__(
        self,
        ranks: Ranks,
        name: str,
        progress: Callable[[], tuple[int, ...]],
        tell: Callable[[RanksStuckSeen], None],
        patience: float = PATIENCE,
    ) -> None:
        self._patience = patience
        self._ranks, self._key, self._progress, self._tell = ranks, f"{name}/stuck", progress, tell
        self._watched, self._over = threading.get_ident(), threading.Event()
        self._slowest, self._beat = 0.0, 0
        threading.Thread(target=self._watch, name="sightline-watchdog", daemon=True).start()

    def close(self) -> None:
        """The run is over."""
        self._over.set()

    def _watch(self) -> None:
        seen, since, stepped, steps, worked = None, time.monotonic(), time.monotonic(), None, time.process_time()
        earlier: dict[int, StuckRank] = {}
        while not self._over.wait(self._patience / LOOKS):
            now, place, progress = time.monotonic(), self._place(), self._progress()
            if progress != steps:
                self._slowest = max(self._slowest, now - stepped) if steps is not None else 0.0
                steps, stepped = progress, now
            if (place, progress) != seen or place is None or place.call is None:
                seen, since, worked = (place, progress), now, time.process_time()
                earlier = {}
                continue
            if now - since < max(self._patience, TIMES * self._slowest):
                continue
            if time.process_time() - worked > BUSY * (now - since):
                continue
            found = self._others(StuckRank(self._ranks.rank, progress[0], place.call, place.line), now - since)
            if self._ranks.rank == 0 and self._deadlock(found, earlier):
                with suppress(UserError):  # told already; the thread that should stop for it waits for ever
                    self._tell(RanksStuckSeen(progress[0], now - since, tuple(found[r] for r in sorted(found))))
                return
            earlier = found

    def _others(self, own: StuckRank, seconds: float) -> dict[int, StuckRank]:
        """Show that this rank is stuck, and read which others are."""
        self._beat += 1
        self._ranks.put(self._key, asdict(replace(own, beat=self._beat)))
        return {rank: StuckRank(**facts) for rank, facts in self._ranks.those(self._key).items()}

    def _deadlock(self, found: dict[int, StuckRank], earlier: dict[int, StuckRank]) -> bool:
        """All ranks were stuck at the last look, still are, and not at one place: whoever waits, waits for ever."""
        everywhere = len(found) == len(earlier) == self._ranks.world
        return everywhere and all(
            found[r].beat > earlier[r].beat and replace(found[r], beat=0) == replace(earlier[r], beat=0) for r in found
        )

    def _place(self) -> Place | None:
        """Where the watched thread is; None when it has ended."""
        frame: FrameType | None = sys._current_frames().get(self._watched)
        if frame is None:
            return None
        call, line, frames = _call(frame), "", []
        while frame is not None:
            file = frame.f_code.co_filename
            frames.append((id(frame.f_code), frame.f_lasti))
            if not line and not file.startswith((TORCH, OURS, "<")):
                line = f"{Path(file).name}:{frame.f_lineno}"
            frame = frame.f_back
        return Place(call, line, tuple(frames))


def _call(frame: FrameType) -> str | None:
    """What the innermost frame waits in: a collective of torch.distributed, a backward pass with its exchange."""
    module = str(frame.f_globals.get("__name__", ""))
    if not module.startswith(WAITING):
        return None
    if module.startswith("torch.autograd"):
        return "backward"
    name = frame.f_code.co_name
    while name in WRAPPERS and frame.f_back is not None:
        frame = frame.f_back
        name = frame.f_code.co_name
    return name
