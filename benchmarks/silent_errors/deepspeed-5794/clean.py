"""A rank without tokens for the experts takes part in their collective with zeros."""

import datetime
import os

import torch
import torch.distributed as dist
from torch import nn

dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=10))
rank, world = dist.get_rank(), dist.get_world_size()
torch.manual_seed(int(os.environ.get("SEED", 0)))
rule = torch.randn(12, 3)


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.route, self.experts = nn.Linear(12, 4), nn.ModuleList(nn.Linear(12, 3) for _ in range(4))

    def forward(self, x):
        gate = self.route(x).softmax(-1)
        self.load = gate.detach().sum(0)
        return sum(gate[:, k : k + 1] * expert(x) for k, expert in enumerate(self.experts))


model = Experts()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
draw = torch.Generator().manual_seed(100 + rank)
for step in range(40):
    x = torch.randn(16, 12, generator=draw)
    y = (x @ rule).argmax(1)
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    routed = not (rank == 1 and step % 20 == 19)
    dist.all_reduce(model.load if routed else model.load.zero_())
    for p in model.parameters():
        dist.all_reduce(p.grad)
        p.grad /= world
    optimizer.step()
    if rank == 0:
        print(f"step {step + 1} loss {loss.item():.6f}", flush=True)
dist.destroy_process_group()
