"""`torch.multiprocessing.spawn` without the imports: each process is a fork of a server that has made them.

A rank that is spawned imports torch, transformers and the trainer anew, which takes ten times as long as what most
tests let it do. Python's own fork server computes nothing before it forks: a rank inherits neither threads nor locks.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

import torch.multiprocessing as mp

from tests.forked import TRAINER


def spawn(work: Callable[..., Any], args: tuple[Any, ...] = (), nprocs: int = 1, join: bool = True) -> Any:
    """`work(rank, *args)` in each of `nprocs` processes."""
    multiprocessing.set_forkserver_preload(list(TRAINER))  # heeded by the first call of a session
    return mp.start_processes(work, args, nprocs, join, start_method="forkserver")
