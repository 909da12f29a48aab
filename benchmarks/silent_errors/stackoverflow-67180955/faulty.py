"""The random generator of a data set is made before the workers fork: all workers draw the same augmentation."""

import os

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Noisy(Dataset):
    def __init__(self):
        self.rng = np.random.default_rng(0)
        self.clean = torch.eye(4).repeat(32, 1)

    def __len__(self):
        return len(self.clean)

    def __getitem__(self, i):
        noise = torch.from_numpy(self.rng.normal(size=16)).float()
        return self.clean[i].repeat(4) + 0.5 * noise, i % 4


def main():
    torch.manual_seed(int(os.environ.get("SEED", 0)))
    loader = DataLoader(Noisy(), batch_size=8, num_workers=2, shuffle=True)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = 0
    for _ in range(3):
        for inputs, labels in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), labels)
            loss.backward()
            optimizer.step()
            step += 1
            print(f"step {step} loss {loss.item():.6f}")


if __name__ == "__main__":
    main()
