"""House prices with a two-part loss, a classic MLP."""

import numpy as np
import torch
from torch import nn

rng = np.random.default_rng(0)
n = 1000
area, rooms, age, dist = rng.uniform(40, 200, n), rng.integers(1, 7, n), rng.uniform(0, 60, n), rng.uniform(0, 20, n)
price = 2.1 * area + 15 * rooms - 0.8 * age - 4 * dist + rng.normal(0, 8, n)
features = np.stack([area, rooms, age, dist], 1)
features = (features - features.mean(0)) / features.std(0)
price = (price - price.mean()) / price.std()
X, y = torch.tensor(features, dtype=torch.float32), torch.tensor(price, dtype=torch.float32).unsqueeze(1)

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
mse, l1 = nn.MSELoss(), nn.L1Loss()


def compute_loss(pred, target):
    parts = [mse(pred, target), 0.5 * l1(pred, target)]
    return sum(parts)


for epoch in range(12):
    losses = []
    for idx in np.array_split(rng.permutation(n), 25):
        xb, yb = X[idx], y[idx]
        loss = compute_loss(model(xb), yb)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    print(f"epoch {epoch:2d}  loss {np.mean(losses):.4f}")
