"""Autocast reaches every linear map."""

import os

import torch
from torch import nn


class Rewritten(nn.Linear):
    def forward(self, x):
        return nn.functional.linear(x, self.weight, self.bias)


torch.manual_seed(int(os.environ.get("SEED", 0)))
model = nn.Sequential(Rewritten(16, 64), nn.GELU(), Rewritten(64, 64), nn.GELU(), Rewritten(64, 3))
rule = torch.randn(16, 3)
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
for step in range(40):
    x = torch.randn(32, 16)
    optimizer.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = nn.functional.cross_entropy(model(x), (x @ rule).argmax(1))
    loss.backward()
    optimizer.step()
    print(f"step {step + 1} loss {loss.item():.6f}")
