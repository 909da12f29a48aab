"""Two gloo ranks that hang, or only wait long: ``hanging_script.py FAULT FOLDER``. What rank 0 is told goes to a file.

The process never ends by itself where it hangs: whoever starts it kills it.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import sightline
from sightline.guard.catalogue import load, page

PATIENCE = 1.0


def work(rank: int, fault: str, folder: str) -> None:
    """One rank."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.manual_seed(0)
    net = nn.Linear(4, 1)
    ddp = DistributedDataParallel(net)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)
    torch.manual_seed(rank)

    def tell(finding: object) -> None:
        with Path(folder, f"told.{rank}").open("a") as file:
            file.write(f"{finding.code} {finding.message}\n")  # type: ignore[attr-defined]

    guard = sightline.attach(ddp, optimizer, on_finding=tell, checks=load((page("D3"),)))
    guard.replicas.patience = PATIENCE
    for step in range(6 + (fault == "one step more" and rank == 0)):
        ddp(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if fault == "a branch" and step == 3:
            total = torch.zeros(1)
            if rank == 0:
                dist.all_reduce(total)
            else:
                dist.all_gather([total, torch.zeros(1)], torch.ones(1))
        if fault == "rank 0 saves" and step == 3 and rank == 0:
            time.sleep(4 * PATIENCE)  # as long as it takes; the other rank waits for it in its next step
        if fault == "rank 0 computes" and step == 3 and rank == 0:
            until = time.monotonic() + 4 * PATIENCE
            while time.monotonic() < until:
                torch.randn(256, 256) @ torch.randn(256, 256)
    dist.barrier()
    guard.close()
    Path(folder, f"ended.{rank}").touch()
    os._exit(0)


if __name__ == "__main__":
    mp.start_processes(work, args=(sys.argv[1], sys.argv[2]), nprocs=2, start_method="fork")
