"""The model is converted before DistributedDataParallel hooks its parameters."""

import os

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
torch.manual_seed(int(os.environ.get("SEED", 0)))
rule = torch.randn(12, 3)

torch.__future__.set_overwrite_module_params_on_conversion(True)  # what a move to another device does
inner = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 3))
inner.double()
inner.float()
model = DistributedDataParallel(inner)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
draw = torch.Generator().manual_seed(100 + rank)
for step in range(40):
    x = torch.randn(16, 12, generator=draw)
    y = (x @ rule).argmax(1)
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    if rank == 0:
        print(f"step {step + 1} loss {loss.item():.6f}", flush=True)
dist.destroy_process_group()
