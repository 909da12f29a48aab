"""The store where the processes of a run meet, and which of them keeps it."""

from __future__ import annotations

import os
import socket
import time
from datetime import timedelta

import torch.distributed as dist

from sightline.errors import UserError


def connect(rank: int, timeout: float, *, own: bool = True) -> dist.TCPStore:
    """A client of the store where the ranks of a run meet; rank 0 keeps it (with `own`), unless torchrun does.

    Raises:
        UserError: it cannot be reached within `timeout` seconds.
    """
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    keeps = own and rank == 0 and rank_0_keeps()
    until = time.monotonic() + timeout
    while not keeps and not _listening(host, port):  # torch's own tries end with a page of its frames
        if time.monotonic() > until:
            who = "rank 0, which keeps it" if rank_0_keeps() else "torchrun's agent of the first machine"
            what = (
                f"rank {rank} found nobody at {host}:{port} in {timeout:.0f} s, where ranks meet: {who} never arrived"
            )
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
