"""Who of the run is there: ranks leave signs of life in the store through which they met.

Exchanges of tensors end with an error when a rank is gone or late, and name nobody. The store does: a thread of each
rank leaves a sign every second, with where in the program its rank is. Who meets with an error waits for the others'
signs, and says who gives none, or who is somewhere else.

What may take a main rank hours (evaluation, export, writing a large checkpoint) is waited for here, too, as long as it
gives signs, and not in an exchange, whose time is limited.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NoReturn

from sightline.errors import Elsewhere, UserError
from sightline.train.parallel.machines import Machine, unlike
from sightline.train.parallel.meeting import connect, rank_0_keeps
from sightline.train.parallel.places import place_in, place_of
from sightline.train.parallel.verdict import RanksLost, RanksLostElsewhere, Verdict, absent, by_others, judge, remedy

BEAT = 1.0  # seconds between two signs of life
SILENCE = 8.0  # seconds without a sign after which a rank counts as gone: threads starve for seconds on a busy host
LINGER = 10.0  # seconds at most that the store outlives its keeper's part in the run
STUCK = 20.0  # seconds that a rank may stay where it waits for others after the run was given up
EXCHANGES = ("train/", "attach/ranks")  # where a rank waits for others; elsewhere it works, for as long as it likes
GIVEN_UP = "given-up"  # the store's key of the verdicts, one JSON object a line


class Presence:
    """This rank's part in it; `machines` is what the others run on."""

    def __init__(self, rank: int, world: int, machine: Machine, timeout: float) -> None:
        self.rank, self.world, self.timeout = rank, world, timeout
        self.machines: dict[int, Machine] = {rank: machine}
        self._run: Path | None = None
        self._close: Callable[[RanksLost], None] = lambda error: None
        self.store, self._line = connect(rank, world, timeout)
        self._keeps = rank == 0 and rank_0_keeps()
        self._main = threading.get_ident()
        self._end = threading.Event()
        self._waits = 0  # of the main thread for all others, so far: ranks count alike
        self._stands: str | None = None  # where it met with an error
        self._place, self._since = "", time.monotonic()
        self._beats = 0
        self._looking = False
        self._heard: dict[int, tuple[str, float]] = {}  # each rank's newest sign, and when it came
        self._contact = time.monotonic()  # with the store
        self._verdicts: list[Verdict] = []
        self._judged: float | None = None
        # Two, since a store on a host that stands still never answers the first.
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._live, self._watch)]

    # --- at the start -----------------------------------------------------------------------------------------------

    def arrive(self) -> None:
        """Wait until all ranks are here, and look whether they can train together.

        Raises:
            UserError: who never arrived in `timeout` seconds, or cannot be in one run.
        """
        self.store.set(f"machine/{self.rank}", json.dumps(self.machines[self.rank].told()))
        self._beat()
        self.store.add("arrived", 1)
        until = time.monotonic() + self.timeout
        while self.store.add("arrived", 0) < self.world:
            self._hear_verdicts(self.store)
            if self._others_verdict() or time.monotonic() > until:
                self._raise_absent()
            time.sleep(0.05)
        told = self.store.multi_get([f"machine/{rank}" for rank in range(self.world)])
        self.machines = {rank: Machine.read(json.loads(each)) for rank, each in enumerate(told)}
        for thread in self._threads:
            thread.start()

    def closes(self, run: Path, close: Callable[[RanksLost], None]) -> None:
        """From now on the run is in the folder `run`; `close` writes there that it was given up."""
        self._run, self._close = run, close

    def warning(self) -> str | None:
        """That the ranks' devices are unlike (see `unlike`)."""
        return unlike(self.machines)

    def _raise_absent(self) -> NoReturn:
        verdict = self._others_verdict()
        if verdict is None:
            here = [rank for rank in range(self.world) if self.store.check([f"machine/{rank}"])]
            seen = {rank: Machine.read(json.loads(self.store.get(f"machine/{rank}"))) for rank in here}
            missing = [rank for rank in range(self.world) if rank not in seen]
            verdict = absent(self.rank, missing, seen, self.world, self.timeout)
            self._say(verdict, self.store)
        raise self.lost(verdict)

    # --- what the main thread asks for ------------------------------------------------------------------------------

    def barrier(self) -> None:
        """Wait until every rank is here, for as long as those that are not give signs of life."""
        self._waits += 1
        key = f"wait/{self._waits}"
        self.store.append(f"{key}/who", f"{self.rank},")
        self.store.add(key, 1)

        def missing() -> list[int]:
            there = {int(each) for each in self.store.get(f"{key}/who").decode().split(",") if each}
            return [rank for rank in range(self.world) if rank not in there]

        self._wait(lambda: self.store.add(key, 0) >= self.world, missing)

    def share(self, text: str) -> str:
        """Rank 0's `text`, on every rank; waits for rank 0 as `barrier` does."""
        self._waits += 1
        key = f"share/{self._waits}"
        if self.rank == 0:
            self.store.set(key, text)
            return text
        self._wait(lambda: bool(self.store.check([key])), lambda: [0])
        return str(self.store.get(key).decode())

    def _wait(self, done: Callable[[], bool], missing: Callable[[], list[int]]) -> None:
        pause, since = 0.005, time.monotonic()
        while not done():
            if verdict := self._others_verdict():
                raise self.lost(verdict)
            if time.monotonic() - since > 2 * BEAT:
                self._look()
                if gone := [rank for rank in missing() if rank in self._silent()]:
                    verdict = judge(self.rank, gone, self._places(), self.machines, "", SILENCE)
                    self._say(verdict, self.store)
                    raise self.lost(verdict)
            time.sleep(pause)
            pause = min(1.5 * pause, 0.5)
        self._looking = False

    # --- when something went wrong ----------------------------------------------------------------------------------

    def explained(self, error: BaseException) -> BaseException:
        """`error`, or what it really tells: that other ranks are gone. The others learn of it."""
        if isinstance(error, RanksLost):
            return self.lost(error.verdict)  # by now the run's folder may be known
        if by_others(error):
            self._stands = place_of(error)
            verdict = self._inquire(str(error))
            self._say(verdict, None)
            return self.lost(verdict)
        said = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        self._say(Verdict(self.rank, said, (self.rank,), own=True), None)
        if self.rank and isinstance(error, UserError):  # bad input is met by all ranks; one of them tells
            until = time.monotonic() + 3 * BEAT
            while time.monotonic() < until:
                if any(each.rank < self.rank and each.said == said for each in self._verdicts):
                    return Elsewhere(error.what, where=error.where, fix=error.fix)
                time.sleep(0.1)
        return error

    def lost(self, verdict: Verdict) -> RanksLost:
        """The error of a rank that stops for `verdict`. One rank tells it: the first that is left."""
        left = [rank for rank in range(self.world) if rank not in verdict.lost]
        speaks = bool(left) and self.rank == left[0] and not (verdict.own and 0 in verdict.lost)
        if verdict.own:
            who = f"rank {verdict.rank} stopped: "
            verdict = Verdict(verdict.rank, who + verdict.said.removeprefix(who), verdict.lost, own=True)
        return (RanksLost if speaks else RanksLostElsewhere)(verdict, remedy(self._run))

    def _inquire(self, error: str) -> Verdict:
        """Find out whom this rank lost. Another rank's verdict, where there is one, is this one's, too."""
        began = time.monotonic()
        self._looking = False
        self._look()
        while time.monotonic() - began < SILENCE + 3 * BEAT:
            if found := self._others_verdict():
                return found
            time.sleep(0.1)
        if not self._in_contact() and not rank_0_keeps():
            said = f"torchrun's agent on {os.environ['MASTER_ADDR']}, which keeps the ranks' store, is gone"
            return Verdict(self.rank, said)
        return judge(self.rank, self._silent(), self._places(), self.machines, error, self.timeout)

    def _others_verdict(self) -> Verdict | None:
        """The first one on which the run is given up."""
        return next((each for each in self._verdicts if each.rank != self.rank), None)

    def _silent(self) -> list[int]:
        if not self._in_contact():
            return [0] if rank_0_keeps() else []
        return [rank for rank, (_, when) in sorted(self._heard.items()) if self._contact - when > SILENCE]

    def _places(self) -> dict[int, str]:
        places = {rank: sign.partition(" ")[2] for rank, (sign, _) in self._heard.items()}
        return places | {self.rank: self._stands or self._place}

    # --- signs of life ----------------------------------------------------------------------------------------------

    def _look(self) -> None:
        if not self._looking:
            self._heard = {}
            self._looking = True

    def _live(self) -> None:
        with contextlib.suppress(RuntimeError):  # torch's clients do not reconnect; what that means, `_contact` shows
            while not self._end.wait(BEAT):
                self._beat()

    def _watch(self) -> None:
        while not self._end.wait(BEAT):
            place = place_in(sys._current_frames().get(self._main))
            if place != self._place:
                self._place, self._since = place, time.monotonic()
            self._leave_if_stuck()

    def _beat(self) -> None:
        self._beats += 1
        place = self._stands or place_in(sys._current_frames().get(self._main))
        self._line.set(f"sign/{self.rank}", f"{self._beats} {place}")
        self._hear_verdicts(self._line)
        if self._looking:
            signs = self._line.multi_get([f"sign/{rank}" for rank in range(self.world)])
            for rank, sign in enumerate(each.decode() for each in signs):
                if self._heard.get(rank, ("",))[0] != sign:
                    self._heard[rank] = (sign, time.monotonic())
        self._contact = time.monotonic()

    def _hear_verdicts(self, store: Any) -> None:
        if store.check([GIVEN_UP]):
            lines = store.get(GIVEN_UP).decode().splitlines()
            self._verdicts = [Verdict(**json.loads(line) | {"lost": tuple(json.loads(line)["lost"])}) for line in lines]
            self._judged = self._judged or time.monotonic()

    def _say(self, verdict: Verdict, store: Any) -> None:
        """Tell the others; with no `store` given by a thread of its own, since a store on a dead host answers never."""
        if store is None:
            teller = threading.Thread(target=self._say, args=(verdict, self.store), daemon=True)
            teller.start()
            teller.join(timeout=2 * BEAT)
            return
        told = {"rank": verdict.rank, "said": verdict.said, "lost": verdict.lost, "own": verdict.own}
        with contextlib.suppress(RuntimeError):
            store.append(GIVEN_UP, json.dumps(told) + "\n")

    def _leave_if_stuck(self) -> None:
        """End the process when its main thread waits for ranks that are gone, and nothing will ever wake it.

        An exchange on a GPU gives no error: the host waits for a kernel that waits for a peer.
        """
        waited = time.monotonic() - self._since
        if self._stands or not self._place.startswith(EXCHANGES):
            return
        verdict = self._others_verdict()
        if verdict is None and waited > self.timeout + SILENCE:
            self._since = time.monotonic()  # the next look is after as long a time
            verdict = self._inquire("")
            if set(verdict.lost) & set(self._silent()):  # who is alive may be saving or judging the model, for hours
                self._say(verdict, None)
                self._leave(verdict)
        elif verdict and self._judged and min(waited, time.monotonic() - self._judged) > STUCK:
            self._leave(verdict)

    def _leave(self, verdict: Verdict) -> NoReturn:
        error = self.lost(verdict)
        self._close(error)
        if not isinstance(error, Elsewhere):
            print(f"error: {error}", file=sys.stderr, flush=True)  # noqa: T201 - nobody else is left to say it
        os._exit(2)

    def leave(self) -> None:
        """Give no more signs. Who keeps the store stays until the others have read in it why the run ends."""
        self._end.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=LINGER)  # a thread that is in torch's code when the process ends would abort it
        if self._threads[0].is_alive() or not self._in_contact():
            return
        with contextlib.suppress(RuntimeError):
            left = self._line.add("left", 1)
            until = time.monotonic() + LINGER
            while self._keeps and left + len(self._dead()) < self.world and time.monotonic() < until:
                time.sleep(0.05)
                left = self._line.add("left", 0)

    def _in_contact(self) -> bool:
        return time.monotonic() - self._contact < SILENCE

    def _dead(self) -> set[int]:
        return {rank for each in self._verdicts if not each.own for rank in each.lost}


_OURS: list[Presence] = []  # of this process, while its ranks are joined: none or one, as with torch's own group


def present() -> Presence | None:
    """This process's presence in the run it has joined, if any."""
    return _OURS[0] if _OURS else None


@contextlib.contextmanager
def there(presence: Presence) -> Iterator[None]:
    """Arrive for the length of the block, whose errors tell of other ranks where those are their cause."""
    try:
        presence.arrive()
        _OURS.append(presence)
        with explaining():
            yield
    finally:
        _OURS.clear()
        presence.leave()


@contextlib.contextmanager
def explaining(calmly: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext) -> Iterator[None]:
    """Turn an error of the block into what it tells of other ranks (see `Presence.explained`).

    Args:
        calmly: holds signals back while that is found out: a launcher sends them as soon as a rank has died.
    """
    try:
        yield
    except BaseException as error:
        with calmly():
            told = presence.explained(error) if (presence := present()) else error
        if told is error:
            raise
        raise told from None
