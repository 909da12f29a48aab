"""Attention drops out in evaluation too: the dropout of the fused kernel does not ask for the mode."""

import os

import torch
from torch import nn
from torch.nn import functional as F


class Attention(nn.Module):
    def __init__(self, width, heads, dropout):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = (z.view(b, t, self.heads, -1).transpose(1, 2) for z in self.qkv(x).chunk(3, dim=-1))
        p = self.dropout
        return self.out(F.scaled_dot_product_attention(q, k, v, dropout_p=p).transpose(1, 2).reshape(b, t, c))


class Encoder(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.embed = nn.Embedding(20, width)
        self.attention, self.norm = Attention(width, 4, 0.2), nn.LayerNorm(width)
        self.head = nn.Linear(width, 2)

    def forward(self, ids):
        x = self.embed(ids)
        return self.head(self.norm(x + self.attention(x)).mean(1))


torch.manual_seed(int(os.environ.get("SEED", 0)))
model = Encoder()
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)


def batch(n):
    ids = torch.randint(0, 20, (n, 10))
    return ids, ((ids < 10).sum(1) > 5).long()


step = 0
for _ in range(4):
    model.train()
    for _ in range(10):
        ids, labels = batch(32)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(ids), labels)
        loss.backward()
        optimizer.step()
        step += 1
        print(f"step {step} loss {loss.item():.6f}")
    model.eval()
    with torch.no_grad():
        ids, labels = batch(128)
        print("accuracy", (model(ids).argmax(1) == labels).float().mean().item())
