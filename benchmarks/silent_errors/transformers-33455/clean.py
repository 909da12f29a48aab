"""The number of steps counts the last, smaller group of micro-batches of every epoch."""

import math
import os

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

EPOCHS, ACCUMULATE = 6, 2
torch.manual_seed(int(os.environ.get("SEED", 0)))
x = torch.randn(72, 12)
y = (x @ torch.randn(12, 3)).argmax(1)
loader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)
model = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 3))
max_steps = EPOCHS * math.ceil(len(loader) / ACCUMULATE)
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: max(0.0, 1 - s / max_steps))
step = 0
for _ in range(EPOCHS):
    for i, (inputs, labels) in enumerate(loader):
        last = i + 1 == len(loader)
        group = len(loader) % ACCUMULATE if last and len(loader) % ACCUMULATE else ACCUMULATE
        loss = nn.functional.cross_entropy(model(inputs), labels)
        (loss / group).backward()
        if (i + 1) % ACCUMULATE == 0 or last:
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            step += 1
            print(f"step {step} loss {loss.item():.6f}")
        if step >= max_steps:
            break
    if step >= max_steps:
        break
