"""Spectral norm is judged once a forward pass in train mode has run its power iteration."""

import os

import torch
from torch import nn
from torch.nn.utils import spectral_norm

torch.manual_seed(int(os.environ.get("SEED", 0)))
model = nn.Sequential(
    spectral_norm(nn.Linear(16, 32)), nn.ReLU(), spectral_norm(nn.Linear(32, 32)), nn.ReLU(), nn.Linear(32, 1)
)
probe = torch.randn(64, 16)
for _ in range(3):
    model(probe)
model.eval()
with torch.no_grad():
    print("scale at the start", model(probe).std().item())
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
model.train()
for step in range(40):
    x = torch.randn(32, 16)
    loss = nn.functional.binary_cross_entropy_with_logits(model(x).squeeze(1), (x[:, 0] > 0).float())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"step {step + 1} loss {loss.item():.6f}")
