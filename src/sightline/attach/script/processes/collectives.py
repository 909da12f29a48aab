"""What the ranks of one machine call together, side by side: a call that does not match is named before it is made.

Collectives match by order alone. Where the ranks' orders differ, a run hangs, adds up what does not belong together, or
is aborted by its backend, without a word from Python. So each rank notes each call in a small file that the others have
mapped; the note outlives its rank, and whoever comes second to a call sees what the first one called. No rank waits.
"""

from __future__ import annotations

import functools
import inspect
import mmap
import os
import socket
import struct
import sys
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from types import FrameType, FunctionType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sightline.attach.hook import Hook
from sightline.attach.ranks import Ranks, joined
from sightline.attach.script.main import installed
from sightline.attach.script.watch import Models
from sightline.guard.evidence import CollectivesSeen

SIZED = ("all_reduce", "broadcast", "reduce")  # every rank gives a tensor of the same size and format
OTHERS = (
    *("all_gather", "all_gather_into_tensor", "reduce_scatter", "reduce_scatter_tensor", "all_to_all"),
    *("all_to_all_single", "gather", "scatter", "barrier", "all_gather_object", "gather_object"),
    *("broadcast_object_list", "scatter_object_list"),
)
COUNT = struct.Struct("<Q")  # a file begins with: how many notes; whether its rank has met all others
NOTE = struct.Struct("<8sQ64s48s")  # group, number of the call in the group, call, where it is made
MET = COUNT.size
HEAD = MET + COUNT.size
KEPT = 512  # notes of a rank: ranks are seldom more than a few calls apart
SUMMED, SMALL = "all_reduce", 4096  # what takes something from each rank; elements that are looked at
APART = 3  # calls at different places: one may be a chance of the last batch
MOST = 64  # ranks: beyond, looking for the others costs more than it tells


Calls = OrderedDict[tuple[bytes, int], tuple[str, str]]  # what is called, and where, if that is worth a look


@dataclass
class Peer:
    """Another rank's notes. `read`: how many of them were read; `calls`: (group, number) -> call, the last ones.

    `apart`: calls that it and we made at different places, each with something to give.
    """

    notes: mmap.mmap
    read: int = 0
    calls: Calls = field(default_factory=OrderedDict)
    apart: int = 0


class Collectives:
    """Notes this rank's collectives. The first of `models` that is watched takes the evidence of a mismatch."""

    def __init__(self, models: Models, fault: Callable[[str], None]) -> None:
        self._models, self._pid = models, os.getpid()
        self._note_call = Hook(self._note, lambda error: self._over(f"collectives: {type(error).__name__}: {error}"))
        self._fault, self._inside, self._done = fault, threading.local(), False
        self._ranks: Ranks | None = None
        self._notes: mmap.mmap | None = None
        self._path: Path | None = None
        self._peers: dict[int, Peer] = {}
        self._missing: set[int] = set()
        self._count = 0
        self._numbers: dict[bytes, int] = {}
        self._mine: Calls = OrderedDict()
        self._seen: CollectivesSeen | None = None

    def install(self) -> None:
        """Put a note before each collective of torch."""
        if not dist.is_available():
            return
        for name in _names():
            original = getattr(dist, name)
            noted = self._noted(name, original)
            for place in (dist, dist.distributed_c10d):
                if getattr(place, name, None) is original:
                    setattr(place, name, noted)

    def _noted(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        order = list(inspect.signature(original).parameters)
        at = order.index("group")

        @functools.wraps(original)
        def collective(*args: Any, **kwargs: Any) -> Any:
            if self._done or torch.compiler.is_compiling() or getattr(self._inside, "busy", False):
                return original(*args, **kwargs)
            given = args[0] if args else next(iter(kwargs.values()), None)
            self._note_call(name, given, args[at] if len(args) > at else kwargs.get("group"), sys._getframe(1))
            self._inside.busy = True  # what a collective calls inside is a part of it
            try:
                return original(*args, **kwargs)
            finally:
                self._inside.busy = False

        return collective

    # --- this rank -------------------------------------------------------------------------------------------------

    def _note(self, name: str, given: Any, group: Any, caller: FrameType) -> None:
        if self._seen is not None:  # nobody took it yet
            self._done = self._show()
            return
        if os.getpid() != self._pid or not dist.is_initialized() or (self._notes is None and not self._begin()):
            return
        whole = dist.group.WORLD if group is None else group
        if whole is None or whole is dist.GroupMember.NON_GROUP_MEMBER:
            return
        ranks = dist.get_process_group_ranks(whole)
        key = blake2b(f"{whole.group_name} {ranks}".encode(), digest_size=8).digest()
        number = self._numbers[key] = self._numbers.get(key, 0) + 1
        call = f"{name} of {given.numel()} {given.dtype}" if name in SIZED and isinstance(given, Tensor) else name
        told = [text.encode()[:size] for text, size in ((call, 64), (_place(caller, name, given), 48))]
        self._keep(self._mine, (key, number), _read(told))
        assert self._notes is not None
        NOTE.pack_into(self._notes, HEAD + self._count % KEPT * NOTE.size, key, number, *told)
        self._count += 1
        COUNT.pack_into(self._notes, 0, self._count)
        if self._path is not None and self._count & (self._count - 1) == 0:
            self._meet()
        for rank, peer in self._peers.items():
            self._compare(rank, peer)

    def _begin(self) -> bool:
        """Make this rank's file and tell the others where it is."""
        self._ranks = joined()
        if self._ranks is None or self._ranks.world > MOST:
            self._done = self._ranks is not None
            return False
        handle, path = tempfile.mkstemp(prefix="sightline-calls-")
        os.ftruncate(handle, HEAD + KEPT * NOTE.size)
        self._notes, self._path = mmap.mmap(handle, 0), Path(path)
        os.close(handle)
        self._missing = set(range(self._ranks.world)) - {self._ranks.rank}
        self._ranks.put("calls", [socket.gethostname(), path])
        return True

    # --- the others ------------------------------------------------------------------------------------------------

    def _meet(self) -> None:
        """Map the files of the ranks that have told of theirs; those of other machines are left alone."""
        assert self._ranks is not None and self._notes is not None
        there = self._ranks.those("calls") if self._missing else {}
        for rank in sorted(self._missing & there.keys()):
            host, path = there[rank]
            self._missing.discard(rank)
            notes = _mapped(Path(path)) if host == socket.gethostname() else None
            if notes is not None:
                self._peers[rank] = Peer(notes)
        if not self._missing:
            COUNT.pack_into(self._notes, MET, 1)
            if all(COUNT.unpack_from(peer.notes, MET)[0] for peer in self._peers.values()):
                self.close()  # who is to read it has it mapped: it needs no name any more

    def _compare(self, rank: int, peer: Peer) -> None:
        """Read what the other has called since the last look; compare that, and this rank's newest call."""
        (written,) = COUNT.unpack_from(peer.notes, 0)
        first = max(peer.read, written - KEPT + 1)
        notes = [NOTE.unpack_from(peer.notes, HEAD + place % KEPT * NOTE.size) for place in range(first, written)]
        (later,) = COUNT.unpack_from(peer.notes, 0)
        peer.read = written
        fresh = [note for place, note in enumerate(notes, first) if place > later - KEPT]  # not overwritten meanwhile
        for key, number, *told in fresh:
            self._keep(peer.calls, (key, number), _read(told))
        for at in dict.fromkeys((*((key, number) for key, number, *_ in fresh), next(reversed(self._mine)))):
            mine, theirs = self._mine.get(at), peer.calls.get(at)
            if mine and theirs and mine != theirs and self._seen is None and self._ranks is not None:
                self._differ(rank, at[1], mine, theirs)

    def _differ(self, rank: int, number: int, mine: tuple[str, str], theirs: tuple[str, str]) -> None:
        """One call of two ranks is another one, or made elsewhere: then it is a habit that tells."""
        assert self._ranks is not None
        same = mine[0] == theirs[0]
        self._peers[rank].apart += same and bool(mine[1] and theirs[1])
        if not same or self._peers[rank].apart >= APART:
            calls = {
                one: f"{call} at {where}" if same else call
                for one, (call, where) in ((self._ranks.rank, mine), (rank, theirs))
            }
            self._seen = CollectivesSeen(0, number, calls, apart=same)
            self._done = self._show()

    def _show(self) -> bool:
        """Whether somebody took the evidence."""
        for one in self._models.live[:1]:
            if one.attachment is not None and self._seen is not None:
                one.attachment.show(replace(self._seen, step=one.recorder.step))
                return True
        return False

    def _keep(self, calls: Calls, at: tuple[bytes, int], call: tuple[str, str]) -> None:
        calls[at] = call
        if len(calls) > KEPT:
            calls.popitem(last=False)

    def _over(self, what: str) -> None:
        self._done = True
        self._fault(what)

    def close(self) -> None:
        """This rank's file goes; who has it mapped may still read it."""
        if self._path is not None and os.getpid() == self._pid:
            self._path.unlink(missing_ok=True)
            self._path = None


def _read(told: Sequence[bytes]) -> tuple[str, str]:
    """A call and its place, as they were noted: cut to their length."""
    call, where = (text.rstrip(b"\0").decode(errors="replace") for text in told)
    return call, where


def _place(frame: FrameType, name: str, given: Any) -> str:
    """Where the script adds up, if it has something to give; "" else, and for calls that a library makes.

    Reads the tensor, so only a small one on the CPU.
    """
    if name != SUMMED:
        return ""
    file = frame.f_code.co_filename
    small = isinstance(given, Tensor) and given.device.type == "cpu" and 0 < given.numel() <= SMALL
    if installed(file) or not small or not bool(given.detach().any()):
        return ""
    return f"{os.path.basename(file)[-40:]}:{frame.f_lineno}"


def _names() -> list[str]:
    """Torch's collectives: those known by name, and whatever else its version has that takes a group and may wait."""
    every = {n: f for n, f in vars(dist.distributed_c10d).items() if type(f) is FunctionType and not n.startswith("_")}
    found = [n for n, f in every.items() if {"group", "async_op"} <= inspect.signature(f).parameters.keys()]
    return [name for name in dict.fromkeys((*SIZED, *OTHERS, *found)) if hasattr(dist, name)]


def _mapped(path: Path) -> mmap.mmap | None:
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):
        return None
