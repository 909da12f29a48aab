"""A little Llama written out (RMSNorm, RoPE, SwiGLU, grouped KV). Preemptible machine: train, save, come back."""

import argparse
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn


class RMSNorm(nn.Module):
    def __init__(self, d, eps=1e-5):
        super().__init__()
        self.g = nn.Parameter(torch.ones(d))
        self.eps = eps

    def forward(self, x):
        return self.g * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)


def rope(x, base=10000.0):
    t, d = x.shape[-2:]
    freq = base ** (-torch.arange(0, d, 2) / d)
    ang = torch.arange(t)[:, None] * freq[None]
    cos, sin = ang.cos(), ang.sin()
    x1, x2 = x[..., : d // 2], x[..., d // 2 :]
    return torch.cat([x1 * cos - x2 * sin, x1 * sin + x2 * cos], -1)


class Layer(nn.Module):
    def __init__(self, d, heads, kv):
        super().__init__()
        self.heads, self.kv, self.hd = heads, kv, d // heads
        self.wq = nn.Linear(d, d, bias=False)
        self.wk = nn.Linear(d, kv * self.hd, bias=False)
        self.wv = nn.Linear(d, kv * self.hd, bias=False)
        self.wo = nn.Linear(d, d, bias=False)
        self.w1 = nn.Linear(d, 2 * d, bias=False)
        self.w3 = nn.Linear(d, 2 * d, bias=False)
        self.w2 = nn.Linear(2 * d, d, bias=False)
        self.n1, self.n2 = RMSNorm(d), RMSNorm(d)

    def forward(self, x):
        b, t, d = x.shape
        h = self.n1(x)
        q = rope(self.wq(h).view(b, t, self.heads, self.hd).transpose(1, 2))
        k = rope(self.wk(h).view(b, t, self.kv, self.hd).transpose(1, 2))
        v = self.wv(h).view(b, t, self.kv, self.hd).transpose(1, 2)
        k, v = (z.repeat_interleave(self.heads // self.kv, 1) for z in (k, v))
        x = x + self.wo(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, d))
        h = self.n2(x)
        return x + self.w2(F.silu(self.w1(h)) * self.w3(h))


class Llama(nn.Module):
    def __init__(self, vocab, d=64, layers=2, heads=4, kv=2):
        super().__init__()
        self.emb = nn.Embedding(vocab, d)
        self.layers = nn.ModuleList(Layer(d, heads, kv) for _ in range(layers))
        self.norm = RMSNorm(d)
        self.out = nn.Linear(d, vocab, bias=False)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)

    def forward(self, ids):
        x = self.emb(ids)
        for layer in self.layers:
            x = layer(x)
        return self.out(self.norm(x))


def sequences(n, length, vocab, seed):
    """each row walks the ring of symbols with a step of its own"""
    g = torch.Generator().manual_seed(seed)
    start = torch.randint(vocab, (n, 1), generator=g)
    step = torch.randint(1, 6, (n, 1), generator=g)
    return (start + step * torch.arange(length)) % vocab


def make(args):
    torch.manual_seed(args.seed)
    model = Llama(args.vocab)
    opt = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.95))
    sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=args.steps)
    return model, opt, sched


def train(model, opt, sched, data, order, first, last, log):
    model.train()
    for step in range(first, last):
        rows = data[order[step]]
        logits = model(rows[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        opt.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        sched.step()
        log.append(loss.item())
        if step % 25 == 0:
            print(f"{step:4d}  loss {loss.item():.3f}  lr {sched.get_last_lr()[0]:.2e}")


@torch.no_grad()
def evaluate(model, rows):
    model.eval()
    logits = model(rows[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()).item()


if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("--steps", type=int, default=200)
    ap.add_argument("--stop-at", type=int, default=100)
    ap.add_argument("--lr", type=float, default=2e-3)
    ap.add_argument("--vocab", type=int, default=40)
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    ckpt = Path(tempfile.mkdtemp()) / "last.pt"
    data, held = sequences(2000, 33, args.vocab, 1), sequences(200, 33, args.vocab, 2)
    order = torch.randint(len(data), (args.steps, 16), generator=torch.Generator().manual_seed(3))
    log = []

    model, opt, sched = make(args)
    train(model, opt, sched, data, order, 0, args.stop_at, log)
    torch.save(
        {"model": model.state_dict(), "opt": opt.state_dict(), "sched": sched.state_dict(), "step": args.stop_at}, ckpt
    )
    print("saved; held-out", evaluate(model, held))

    model, opt, sched = make(args)  # the machine came back
    state = torch.load(ckpt)
    model.load_state_dict(state["model"])
    opt.load_state_dict(state["opt"])
    sched.load_state_dict(state["sched"])
    print("resumed; held-out", evaluate(model, held))
    train(model, opt, sched, data, order, state["step"], args.steps, log)
    print("done; held-out", evaluate(model, held))
