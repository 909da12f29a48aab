import math

import torch
import torch.nn as nn
import torch.nn.functional as F


class ImageEncoder(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 16, 4, stride=4), nn.GELU(), nn.Conv2d(16, 32, 2, stride=2), nn.GELU(), nn.AdaptiveAvgPool2d(1)
        )
        self.proj = nn.Linear(32, dim, bias=False)

    def forward(self, pixels):
        return self.proj(self.net(pixels).flatten(1))


class TextEncoder(nn.Module):
    def __init__(self, vocab, dim):
        super().__init__()
        self.token = nn.Embedding(vocab, 32)
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, norm_first=True)
        self.proj = nn.Linear(32, dim, bias=False)

    def forward(self, ids):
        return self.proj(self.layer(self.token(ids)).mean(1))


class CLIP(nn.Module):
    def __init__(self, vocab=16, dim=24):
        super().__init__()
        self.visual = ImageEncoder(dim)
        self.text = TextEncoder(vocab, dim)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, pixels, ids):
        i = F.normalize(self.visual(pixels), dim=-1)
        t = F.normalize(self.text(ids), dim=-1)
        return self.logit_scale.exp() * i @ t.T


def sample(n):
    colour = torch.randperm(512)[:n]
    r, g, b = colour // 64, colour // 8 % 8, colour % 8
    pixels = torch.stack([r, g, b], 1).float().div(7)[:, :, None, None].expand(-1, -1, 16, 16)
    ids = torch.stack([r, g + 8, b], 1)
    return pixels + 0.05 * torch.randn(n, 3, 16, 16), ids


torch.manual_seed(0)
model = CLIP()
decay = [p for p in model.parameters() if p.ndim > 1]
rest = [p for p in model.parameters() if p.ndim <= 1]
optimizer = torch.optim.AdamW([{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}], lr=1e-3)
for step in range(80):
    pixels, ids = sample(32)
    logits = model(pixels, ids)
    truth = torch.arange(len(logits))
    loss = (F.cross_entropy(logits, truth) + F.cross_entropy(logits.T, truth)) / 2
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    with torch.no_grad():
        model.logit_scale.clamp_(0, math.log(100))
    if step % 16 == 15:
        print(step + 1, round(loss.item(), 6), (logits.argmax(1) == truth).float().mean().item())
