"""The store where the processes of a run meet, and which of them keeps it."""

from __future__ import annotations

import os
import socket
import time
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from sightline.errors import UserError


def connect(rank: int, world: int, timeout: float) -> tuple[Any, Any]:
    """Two clients of the store where the ranks of a run meet; rank 0 keeps it, unless torchrun does.

    Two, since a client that waits blocks its other users. What they write is theirs: torchrun's store outlives its
    processes and still holds what those before them wrote, such as the addresses at which they listened. (Any: torch's
    stubs of a store know no `append`.)

    Raises:
        UserError: it cannot be reached within `timeout` seconds.
    """
    first = _client(timeout, keeps=rank == 0 and rank_0_keeps())
    start = f"{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}.{world}"
    born = first.add(f"{start}/born/{rank}", 1)  # a machine may be replaced without a restart being counted
    second = _client(timeout, keeps=False)
    return dist.PrefixStore(f"{start}.{born}", first), dist.PrefixStore(f"{start}.{born}", second)


def _client(timeout: float, *, keeps: bool) -> dist.TCPStore:
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    until = time.monotonic() + timeout
    while not keeps and not _listening(host, port):  # torch's own tries end with a page of its frames
        if time.monotonic() > until:
            who = "rank 0, which keeps it," if rank_0_keeps() else "torchrun's agent of the first machine"
            what = f"{who} never arrived: nobody was at {host}:{port}, where ranks meet, in {timeout:.0f} s"
            fix = "see whether it started, and whether MASTER_ADDR and MASTER_PORT name it and its port is open"
            raise UserError(what, where="parallel", fix=fix)
        time.sleep(0.1)
    wait = timedelta(seconds=timeout)
    return dist.TCPStore(host, port, None, keeps, wait, wait_for_workers=False, multi_tenant=True)


def rank_0_keeps() -> bool:
    """Whether the store lives in rank 0's process, and not in torchrun's."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"


def _listening(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=5):
            return True
    except OSError:
        return False
