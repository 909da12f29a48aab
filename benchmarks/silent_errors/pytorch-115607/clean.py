"""The step is recorded anew when it changes which parameters have gradients."""

import os

import torch
from torch import nn

torch.manual_seed(int(os.environ.get("SEED", 0)))


class Recorded(torch.optim.Optimizer):
    """SGD that records which tensors it updates, as a compiled optimizer does."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})
        self.tape, self.guard = None, None

    @torch.no_grad()
    def step(self, closure=None):
        params = [p for group in self.param_groups for p in group["params"]]
        guard = tuple(p.grad is None for p in params)
        if self.tape is None or guard != self.guard:
            self.guard, self.tape = guard, [p for p in params if p.grad is not None]
        for p in self.tape:
            p -= self.param_groups[0]["lr"] * p.grad


model = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 4))
rule = torch.randn(12, 4)
optimizer = Recorded(model.parameters(), lr=0.1)
for step in range(60):
    x = torch.randn(32, 12)
    loss = nn.functional.cross_entropy(model(x), (x @ rule).argmax(1))
    optimizer.zero_grad()
    if step != 10:  # one iteration is frozen
        loss.backward()
    optimizer.step()
    print(f"step {step + 1} loss {loss.item():.6f}")
