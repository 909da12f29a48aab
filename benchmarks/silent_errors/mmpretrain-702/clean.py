"""frozen_stages is applied: train() is called before training."""

import os

import torch
from torch import nn


class Backbone(nn.Module):
    def __init__(self, frozen_stages):
        super().__init__()
        self.frozen_stages = frozen_stages
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, 3, stride=2, padding=1), nn.BatchNorm2d(o), nn.ReLU())
            for i, o in ((3, 8), (8, 16), (16, 32))
        )
        self.head = nn.Linear(32, 4)

    def freeze(self):
        for stage in self.stages[: self.frozen_stages]:
            stage.eval()
            stage.requires_grad_(False)

    def train(self, mode=True):
        super().train(mode)
        self.freeze()
        return self

    def forward(self, x):
        for stage in self.stages:
            x = stage(x)
        return self.head(x.mean((2, 3)))


torch.manual_seed(int(os.environ.get("SEED", 0)))
palette = torch.rand(4, 3, 1, 1)
model = Backbone(frozen_stages=2)
model.train()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
for step in range(40):
    labels = torch.randint(0, 4, (24,))
    loss = nn.functional.cross_entropy(model(palette[labels] + 0.2 * torch.randn(24, 3, 16, 16)), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"step {step + 1} loss {loss.item():.6f}")
