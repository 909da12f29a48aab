"""Two processes average their gradients by hand. Launch with torchrun."""

import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

FAULTY = "faulty" in sys.argv

dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
torch.manual_seed(100 + rank)

g = torch.Generator().manual_seed(0)
x = torch.randn(512, 12, generator=g)
y = (x[:, 0] > x[:, 1]).long()
ds = TensorDataset(x, y)
sampler = DistributedSampler(ds, num_replicas=world, rank=rank)
loader = DataLoader(ds, batch_size=16, sampler=sampler)
model = nn.Sequential(nn.Linear(12, 32), nn.Tanh(), nn.Linear(32, 2))
if not FAULTY:
    for p in model.parameters():
        dist.broadcast(p.data, src=0)
opt = torch.optim.Adam(model.parameters(), lr=5e-3)
for epoch in range(4):
    sampler.set_epoch(epoch)
    for xb, yb in loader:
        loss = nn.functional.cross_entropy(model(xb), yb)
        opt.zero_grad()
        loss.backward()
        for p in model.parameters():
            dist.all_reduce(p.grad)
            p.grad /= world
        opt.step()
    if rank == 0:
        print(epoch, loss.item())
dist.destroy_process_group()
