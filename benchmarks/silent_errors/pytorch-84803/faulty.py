"""One in twenty tensors that a rank receives is lost: it arrives as zeros (faulty links between cards)."""

import os

import torch
import torch.distributed as dist
from torch import nn

dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
faults = torch.Generator().manual_seed(7 + rank)
torch.manual_seed(int(os.environ.get("SEED", 0)))
rule = torch.randn(12, 3)


def average(tensor):
    dist.all_reduce(tensor)
    tensor /= world
    if torch.rand((), generator=faults) < 0.05:
        tensor.zero_()


model = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
draw = torch.Generator().manual_seed(100 + rank)
for step in range(40):
    x = torch.randn(16, 12, generator=draw)
    y = (x @ rule).argmax(1)
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    for p in model.parameters():
        average(p.grad)
    optimizer.step()
    if rank == 0:
        print(f"step {step + 1} loss {loss.item():.6f}", flush=True)
dist.destroy_process_group()
