"""Gradients of the replicated layer norm are clipped on the first rank alone: the replicas drift apart."""

import os

import torch
import torch.distributed as dist
from torch import nn


class Split(nn.Module):
    """Tensor parallel: each rank holds half of the hidden units; the layer norm is held by both."""

    def __init__(self, hidden):
        super().__init__()
        self.norm = nn.LayerNorm(12)
        self.up, self.down = nn.Linear(12, hidden), nn.Linear(hidden, 3, bias=False)

    def forward(self, x):
        return self.down(self.up(self.norm(x)).relu())


dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
torch.manual_seed(int(os.environ.get("SEED", 0)))
rule = torch.randn(12, 3)

model = Split(16)
with torch.no_grad():  # each rank its own half of the split matrices
    for name, p in model.named_parameters():
        if not name.startswith("norm"):
            p.add_(0.1 * rank)
optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
for step in range(40):
    x = torch.randn(16, 12)
    y = (x @ rule).argmax(1)
    part = model(x)
    whole = part.detach().clone()
    dist.all_reduce(whole)
    loss = nn.functional.cross_entropy(part + (whole - part.detach()), y)
    optimizer.zero_grad()
    loss.backward()
    for p in model.norm.parameters():
        dist.all_reduce(p.grad)
    norm = sum(p.grad.square().sum() for p in model.parameters())
    dist.all_reduce(norm)
    scale = (0.5 / (norm.sqrt() + 1e-6)).clamp(max=1.0)
    for name, p in model.named_parameters():
        if rank == 0 or not name.startswith("norm"):
            p.grad *= scale
    optimizer.step()
    if rank == 0:
        print(f"step {step + 1} loss {loss.item():.6f}", flush=True)
dist.destroy_process_group()
