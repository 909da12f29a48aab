"""Skip-gram with negative sampling; sparse gradients."""

import re
from collections import Counter

import torch
import torch.nn.functional as F
from torch import nn

words = re.findall(r"[a-z]+", open("input.txt").read().lower())
counts = Counter(words)
vocab = [w for w, c in counts.most_common() if c >= 2]
index = {w: i for i, w in enumerate(vocab)}
ids = torch.tensor([index[w] for w in words if w in index])
noise = torch.tensor([counts[w] for w in vocab]).float() ** 0.75


class SkipGram(nn.Module):
    def __init__(self, n, dim=16):
        super().__init__()
        self.inner = nn.Embedding(n, dim, sparse=True)
        self.outer = nn.Embedding(n, dim, sparse=True)
        nn.init.uniform_(self.inner.weight, -0.5 / dim, 0.5 / dim)
        nn.init.zeros_(self.outer.weight)

    def forward(self, centre, near, far):
        c = self.inner(centre)
        good = (c * self.outer(near)).sum(-1)
        bad = torch.einsum("bd,bkd->bk", c, self.outer(far))
        return -(F.logsigmoid(good) + F.logsigmoid(-bad).sum(-1)).mean()


torch.manual_seed(0)
model = SkipGram(len(vocab))
optimizer = torch.optim.SparseAdam(list(model.parameters()), lr=0.02)
for step in range(100):
    at = torch.randint(2, len(ids) - 2, (64,))
    near = ids[at + torch.tensor([-2, -1, 1, 2])[torch.randint(0, 4, (64,))]]
    far = torch.multinomial(noise, 64 * 5, replacement=True).view(64, 5)
    loss = model(ids[at], near, far)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 20 == 19:
        print(step + 1, loss.item())
