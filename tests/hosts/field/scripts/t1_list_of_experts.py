"""Sum-of-experts regressor."""

import math
import torch
from torch import nn


class Expert(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, hidden), nn.Tanh(), nn.Linear(hidden, 1))

    def forward(self, x):
        return self.net(x)


class MixtureRegressor(nn.Module):
    def __init__(self, dim=8, hidden=32, experts=4):
        super().__init__()
        self.experts = nn.ModuleList([Expert(dim, hidden) for _ in range(experts)])
        self.gate = nn.Linear(dim, experts)

    def forward(self, x):
        w = self.gate(x).softmax(-1)
        y = torch.cat([e(x) for e in self.experts], dim=-1)
        return (w * y).sum(-1)


class Trainer:
    def __init__(self, model, lr=3e-3, batch_size=64):
        self.model, self.batch_size = model, batch_size
        self.opt = torch.optim.Adam(model.parameters(), lr=lr)
        self.loss = nn.MSELoss()

    def fit(self, x, y, epochs):
        for e in range(epochs):
            self.model.train()
            for i in torch.randperm(len(x)).split(self.batch_size):
                self.opt.zero_grad()
                l = self.loss(self.model(x[i]), y[i])
                l.backward()
                self.opt.step()
            if e % 5 == 0:
                print(e, self.evaluate(x, y))

    @torch.no_grad()
    def evaluate(self, x, y):
        self.model.eval()
        return self.loss(self.model(x), y).item()


if __name__ == "__main__":
    torch.manual_seed(7)
    x = torch.randn(1024, 8)
    y = torch.sin(math.pi * x[:, 0]) * (x[:, 1] > 0) + x[:, 2].abs() + 0.05 * torch.randn(1024)
    Trainer(MixtureRegressor()).fit(x, y, 16)
