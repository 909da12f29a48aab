"""A data-parallel script of two gloo processes, as strangers write them, with one fault or none.

Run as ``python ranks_script.py FAULT FOLDER``: rank 0 writes the merged records to FOLDER/records.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import sightline
from sightline.attach.ranks import gathered, merged


class Both(nn.Module):
    """Text always, a picture where the batch has one."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.sight, self.head = nn.Linear(6, 16), nn.Linear(4, 16), nn.Linear(16, 3)

    def forward(self, text: torch.Tensor, picture: torch.Tensor | None) -> torch.Tensor:
        hidden = self.text(text)
        if picture is not None:
            hidden = hidden + self.sight(picture)
        return self.head(hidden.relu())


def work(rank: int, fault: str, folder: str) -> None:
    """One rank."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.manual_seed(0)
    texts, pictures = torch.randn(96, 6), torch.randn(96, 4)
    labels = (texts[:, 0] > 0).long() + (pictures[:, 0] > 0).long()
    torch.manual_seed(rank)
    net = Both()
    ddp = DistributedDataParallel(net, find_unused_parameters=fault == "text-only, unused are found")
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)
    rows = TensorDataset(texts, pictures, labels)
    place = 0 if fault == "same data" else rank
    sampler: DistributedSampler[object] = DistributedSampler(rows, num_replicas=2, rank=place)
    loader = DataLoader(rows, batch_size=8, sampler=sampler)
    guard = sightline.attach(ddp, optimizer, loader, on_finding=None)
    try:
        train(rank, fault, ddp, optimizer, loader)
    except RuntimeError as error:
        print(rank, error, file=sys.stderr)
        guard.broken_off()
    guard.close()
    everyone = gathered(guard.records(), guard.replicas.ranks)
    if everyone is not None:
        Path(folder, "records.json").write_text(json.dumps(merged(everyone)), encoding="utf-8")


def train(
    rank: int,
    fault: str,
    ddp: nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: DataLoader[tuple[torch.Tensor, ...]],
) -> None:
    """Two epochs."""
    called = ddp.module if fault == "wrapper bypassed" else ddp
    for epoch in range(2):
        if fault != "epoch not set":
            loader.sampler.set_epoch(epoch)
        for place, (text, picture, label) in enumerate(loader):
            optimizer.zero_grad()
            alone = fault.startswith("text-only") and rank == 1 and place == 3
            loss = F.cross_entropy(called(text, None if alone else picture), label)
            loss.backward()
            if fault == "clipped on one rank" and rank == 0:
                nn.utils.clip_grad_norm_(ddp.parameters(), 0.1)
            optimizer.step()


if __name__ == "__main__":
    mp.start_processes(work, args=(sys.argv[1], sys.argv[2]), nprocs=2, start_method="fork")
