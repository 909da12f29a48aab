"""Self-supervision with a target network that is never trained by gradients."""

import copy

import torch
import torch.nn.functional as F
from torch import nn


def mlp(i, o, hidden=48):
    return nn.Sequential(nn.Linear(i, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, o))


class BYOL(nn.Module):
    def __init__(self):
        super().__init__()
        self.online = mlp(20, 16)
        self.predictor = mlp(16, 16)
        self.target = copy.deepcopy(self.online)
        for p in self.target.parameters():
            p.requires_grad = False

    def forward(self, a, b):
        with torch.no_grad():
            za, zb = self.target(a), self.target(b)
        return self.regress(self.predictor(self.online(a)), zb) + self.regress(self.predictor(self.online(b)), za)

    @staticmethod
    def regress(p, z):
        return 2 - 2 * F.cosine_similarity(p, z, dim=-1).mean()

    @torch.no_grad()
    def move_target(self, m=0.99):
        for t, o in zip(self.target.parameters(), self.online.parameters()):
            t.mul_(m).add_(o, alpha=1 - m)


torch.manual_seed(0)
things = torch.randn(30, 20)
model = BYOL()
optimizer = torch.optim.SGD(
    [p for p in model.parameters() if p.requires_grad], lr=0.05, momentum=0.9, weight_decay=1e-4
)
for step in range(60):
    pick = torch.randint(0, 30, (64,))
    a, b = (things[pick] + 0.3 * torch.randn(64, 20) for _ in range(2))
    loss = model(a, b)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    model.move_target()
    if step % 12 == 11:
        print(step + 1, loss.item())
