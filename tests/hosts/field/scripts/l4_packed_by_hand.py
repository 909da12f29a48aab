"""Pretraining with packed documents: several short documents share one row."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass
class Config:
    vocab: int = 40
    width: int = 64
    heads: int = 4
    depth: int = 2
    length: int = 48
    batch: int = 16
    steps: int = 150
    lr: float = 2e-3


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.h = c.heads
        self.q, self.k, self.v, self.o = (nn.Linear(c.width, c.width, bias=False) for _ in range(4))

    def forward(self, x, mask):
        b, t, d = x.shape
        split = lambda y: y.view(b, t, self.h, d // self.h).transpose(1, 2)
        y = F.scaled_dot_product_attention(split(self.q(x)), split(self.k(x)), split(self.v(x)), attn_mask=mask)
        return self.o(y.transpose(1, 2).reshape(b, t, d))


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.n1, self.n2 = nn.RMSNorm(c.width), nn.RMSNorm(c.width)
        self.attn = Attention(c)
        self.ff = nn.Sequential(nn.Linear(c.width, 4 * c.width), nn.SiLU(), nn.Linear(4 * c.width, c.width))

    def forward(self, x, mask):
        x = x + self.attn(self.n1(x), mask)
        return x + self.ff(self.n2(x))


class PackedLM(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embed = nn.Embedding(c.vocab, c.width)
        self.position = nn.Embedding(c.length, c.width)
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.depth))
        self.norm = nn.RMSNorm(c.width)
        self.out = nn.Linear(c.width, c.vocab, bias=False)

    def forward(self, input_ids, position_ids, document_ids):
        t = input_ids.size(1)
        mask = torch.ones(t, t, dtype=torch.bool).tril()
        mask = mask & (document_ids[:, :, None] == document_ids[:, None, :])
        mask = mask[:, None]
        x = self.embed(input_ids) + self.position(position_ids)
        for layer in self.layers:
            x = layer(x, mask)
        return self.out(self.norm(x))


def document(c, g):
    """Counts up from a random start by a random stride, then an end mark (0)."""
    n = int(torch.randint(6, 16, (1,), generator=g))
    start, stride = torch.randint(1, c.vocab, (1,), generator=g), torch.randint(1, 4, (1,), generator=g)
    ids = (start - 1 + stride * torch.arange(n)) % (c.vocab - 1) + 1
    return torch.cat([ids, torch.zeros(1, dtype=torch.long)])


def packed_row(c, g):
    ids, pos, doc, k = [], [], [], 0
    while sum(map(len, ids)) < c.length + 1:
        d = document(c, g)
        ids.append(d)
        pos.append(torch.arange(len(d)))
        doc.append(torch.full((len(d),), k))
        k += 1
    return tuple(torch.cat(x)[: c.length + 1] for x in (ids, pos, doc))


def train(c: Config):
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(1)
    model = PackedLM(c)
    opt = torch.optim.AdamW(model.parameters(), lr=c.lr, betas=(0.9, 0.95))
    for step in range(c.steps):
        ids, pos, doc = (torch.stack(x) for x in zip(*[packed_row(c, g) for _ in range(c.batch)]))
        logits = model(ids[:, :-1], pos[:, :-1], doc[:, :-1])
        target = ids[:, 1:].masked_fill(doc[:, 1:] != doc[:, :-1], -100)
        loss = F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=-100)
        opt.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        if step % 30 == 0:
            print(step, f"{loss.item():.3f}")


if __name__ == "__main__":
    train(Config())
