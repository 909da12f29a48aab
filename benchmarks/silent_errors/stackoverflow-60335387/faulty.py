"""Gradients are never set to zero: each step is taken along the sum of all gradients so far."""

import os

import torch
from torch import nn

torch.manual_seed(int(os.environ.get("SEED", 0)))
glyphs = torch.rand(10, 1, 8, 8)
model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10))
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for step in range(40):
    labels = torch.randint(0, 10, (32,))
    images = glyphs[labels] + 0.3 * torch.randn(32, 1, 8, 8)
    loss = criterion(model(images), labels)
    loss.backward()
    optimizer.step()
    print(f"step {step + 1} loss {loss.item():.6f}")
