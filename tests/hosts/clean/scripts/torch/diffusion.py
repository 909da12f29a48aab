"""Noise prediction on two-dimensional points with an exponential moving average of the weights."""

import copy

import torch
import torch.nn as nn

T = 100
beta = torch.linspace(1e-4, 0.05, T)
alpha_bar = torch.cumprod(1 - beta, 0)


class Denoiser(nn.Module):
    def __init__(self, width=64):
        super().__init__()
        self.time = nn.Embedding(T, width)
        self.inp = nn.Linear(2, width)
        self.mid = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.out = nn.Linear(width, 2)

    def forward(self, x, t):
        return self.out(self.mid(self.inp(x) + self.time(t)))


@torch.no_grad()
def sample(net, n):
    x = torch.randn(n, 2)
    for t in reversed(range(T)):
        eps = net(x, torch.full((n,), t))
        x = (x - beta[t] / (1 - alpha_bar[t]).sqrt() * eps) / (1 - beta[t]).sqrt()
        if t:
            x = x + beta[t].sqrt() * torch.randn_like(x)
    return x


torch.manual_seed(2)
model = Denoiser()
ema = copy.deepcopy(model).requires_grad_(False)
opt = torch.optim.AdamW(model.parameters(), lr=2e-3)
for step in range(150):
    centre = torch.randint(0, 4, (128,)) * (torch.pi / 2)
    x0 = torch.stack([centre.cos(), centre.sin()], 1) + 0.05 * torch.randn(128, 2)
    t = torch.randint(0, T, (128,))
    noise = torch.randn_like(x0)
    ab = alpha_bar[t, None]
    loss = (model(ab.sqrt() * x0 + (1 - ab).sqrt() * noise, t) - noise).pow(2).mean()
    opt.zero_grad()
    loss.backward()
    opt.step()
    decay = min(0.99, (1 + step) / (10 + step))
    with torch.no_grad():
        for a, b in zip(ema.parameters(), model.parameters()):
            a.lerp_(b, 1 - decay)
    if step % 30 == 29:
        print(step + 1, loss.item())
ema.eval()
print("radius", sample(ema, 64).norm(dim=1).mean().item())
