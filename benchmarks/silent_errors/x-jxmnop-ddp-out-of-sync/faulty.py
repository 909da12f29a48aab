"""Every other forward pass goes to the model inside the wrapper: its gradients stay on their own rank."""

import os

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
torch.manual_seed(int(os.environ.get("SEED", 0)))
rule = torch.randn(12, 3)

inner = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 3))
wrapped = DistributedDataParallel(inner)
optimizer = torch.optim.SGD(inner.parameters(), lr=0.1)
draw = torch.Generator().manual_seed(100 + rank)
for step in range(40):
    x = torch.randn(16, 12, generator=draw)
    y = (x @ rule).argmax(1)
    optimizer.zero_grad()
    model = inner if step % 2 else wrapped
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    if rank == 0:
        print(f"step {step + 1} loss {loss.item():.6f}", flush=True)
dist.destroy_process_group()
