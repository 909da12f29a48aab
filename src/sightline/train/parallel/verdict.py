"""Why ranks lost each other: what is said of it, from what could be learned. Nothing here touches a process."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException

from sightline.errors import Elsewhere, UserError
from sightline.train.parallel.machines import Machine, ranks_told

# What torch's own libraries say when another process does not do its part; they raise plain RuntimeError.
SIGNS = ("gloo/transport", "NCCL", "Connection closed by peer", "Connection reset by peer", "Broken pipe", "Socket")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came between the ranks.

    Attributes:
        rank: whose verdict it is.
        said: one or two sentences, naming ranks.
        lost: the ranks it is about.
        own: a rank's own error, in `said`; that rank has told it itself.
    """

    rank: int
    said: str
    lost: tuple[int, ...] = ()
    own: bool = False


class RanksLost(UserError):
    """The run cannot go on, since ranks are missing."""

    def __init__(self, verdict: Verdict, fix: str) -> None:
        self.verdict = verdict
        super().__init__(verdict.said, where="parallel", fix=fix)


class RanksLostElsewhere(RanksLost, Elsewhere):
    """The same, on a rank that leaves it to another one to say so."""


def by_others(error: BaseException | None) -> bool:
    """Whether `error` says no more than that another rank did not do its part."""
    if error is None:
        return False
    if isinstance(error, CheckpointException):
        return any(by_others(each) for each, _ in error.failures.values()) or by_others(error.__cause__)
    if isinstance(error, dist.DistError):
        return True
    if isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS):
        return True
    return by_others(error.__cause__)


def judge(
    rank: int,
    silent: Sequence[int],
    places: Mapping[int, str],
    machines: Mapping[int, Machine],
    error: str,
    waited: float,
) -> Verdict:
    """What `rank` concludes, which has met with `error` or waited for `waited` seconds.

    Args:
        silent: those of whom no sign of life was seen lately.
        places: where in the program each of the others is, and `rank` itself was when it got the error.
    """
    if silent:
        one = len(silent) == 1
        last = "; ".join(f"last seen at {places[each]}" for each in silent if places.get(each) and one)
        does, was = ("does", "its process was") if one else ("do", "their processes were")
        said = f"{_named(silent, machines)} {does} not answer any more: {was} killed or stopped, or the machine is gone"
        return Verdict(rank, f"{said} ({last})" if last else said, tuple(silent))
    elsewhere = [each for each, place in sorted(places.items()) if each != rank and place != places.get(rank)]
    if elsewhere:
        one = len(elsewhere) == 1
        said = "; ".join(f"rank {each} at {places[each]}" for each in elsewhere[:4])
        what = f"{_named(elsewhere, machines)} did not come to where the others waited, for {waited:.0f} s"
        return Verdict(rank, f"{what}: {'it is' if one else 'they are'} alive, {said}", tuple(elsewhere))
    return Verdict(rank, f"the ranks lost the connection to each other, though all are alive ({_first(error)})")


def absent(rank: int, missing: Sequence[int], here: Mapping[int, Machine], world: int, seconds: float) -> Verdict:
    """What is said where ranks never arrived at the start."""
    hosts = ", ".join(sorted({each.host for each in here.values()}))
    arrived = f"{ranks_told(list(here))} arrived ({hosts})" if here else "none arrived"
    said = f"{len(missing)} of {world} ranks never arrived in {seconds:.0f} s: {ranks_told(list(missing))}; {arrived}"
    return Verdict(rank, said, tuple(missing))


def remedy(run: Path | None) -> str:
    """What to do about lost ranks, for a run saved in `run` (None: it had not begun)."""
    tries, most = (int(os.environ.get(f"TORCHELASTIC_{name}", "0")) for name in ("RESTART_COUNT", "MAX_RESTARTS"))
    if tries < most:
        return f"none now: torchrun starts all ranks anew ({most - tries} more times), from the last checkpoint"
    if run is None:
        return "see what those ranks told themselves (their log, their machine), then start all of them again"
    return f"see what those ranks told themselves, then start all again to go on: sightline train --resume {run}"


def _named(ranks: Sequence[int], machines: Mapping[int, Machine]) -> str:
    told = [f"{m.host} process {m.process}" for each in ranks if (m := machines.get(each))]
    return f"{ranks_told(list(ranks))} ({', '.join(told[:4])}{', ...' if len(told) > 4 else ''})"


def _first(text: str) -> str:
    """The first line, without the place in torch's own source."""
    lines = text.strip().splitlines() or ["no reason given"]
    return lines[0].rpartition("] ")[2][:200]
