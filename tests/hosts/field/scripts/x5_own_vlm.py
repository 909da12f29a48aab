"""Visual question answering with a hand-written vision-language model, trained end to end."""

import torch
import torch.nn as nn
import torch.nn.functional as F

SHAPES = ["square", "cross", "bar", "pole"]
SIDES = ["left", "right"]
VOCAB = ["<pad>", "<bos>", "<eos>", "<image>", "what", "is", "shown", "?", "where", "a", "on", "the", *SHAPES, *SIDES]
ID = {w: i for i, w in enumerate(VOCAB)}
N_PATCH = 16


def draw(shape, side):
    img = torch.zeros(3, 32, 32)
    x0 = 2 if side == "left" else 18
    if shape == "square":
        img[:, 10:20, x0 : x0 + 10] = 1
    elif shape == "cross":
        img[:, 14:17, x0 : x0 + 11] = 1
        img[:, 10:21, x0 + 4 : x0 + 7] = 1
    elif shape == "bar":
        img[:, 14:17, x0 : x0 + 11] = 1
    else:
        img[:, 6:26, x0 + 4 : x0 + 7] = 1
    return img + 0.1 * torch.randn_like(img)


def example():
    s, d = SHAPES[torch.randint(4, ()).item()], SIDES[torch.randint(2, ()).item()]
    words = ["<bos>"] + ["<image>"] * N_PATCH + "what is shown ?".split()
    answer = f"a {s} on the {d}".split() + ["<eos>"]
    ids = [ID[w] for w in words + answer]
    labels = [-100] * len(words) + [ID[w] for w in answer]
    return draw(s, d), torch.tensor(ids), torch.tensor(labels)


def batch(n):
    images, ids, labels = zip(*[example() for _ in range(n)])
    return torch.stack(images), torch.stack(ids), torch.stack(labels)


class VisionEncoder(nn.Module):
    def __init__(self, dim=64, depth=2):
        super().__init__()
        self.patch = nn.Conv2d(3, dim, 8, stride=8)
        self.pos = nn.Parameter(torch.randn(1, N_PATCH, dim) * 0.02)
        self.blocks = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(dim, 4, 128, dropout=0.0, batch_first=True, norm_first=True),
            depth,
            enable_nested_tensor=False,
        )

    def forward(self, x):
        return self.blocks(self.patch(x).flatten(2).transpose(1, 2) + self.pos)


class Decoder(nn.Module):
    def __init__(self, dim=64, depth=2):
        super().__init__()
        self.tok = nn.Embedding(len(VOCAB), dim)
        self.pos = nn.Embedding(64, dim)
        self.blocks = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(dim, 4, 128, dropout=0.0, batch_first=True, norm_first=True),
            depth,
            enable_nested_tensor=False,
        )
        self.head = nn.Linear(dim, len(VOCAB))

    def forward(self, embeds):
        t = embeds.size(1)
        mask = nn.Transformer.generate_square_subsequent_mask(t)
        return self.head(self.blocks(embeds + self.pos(torch.arange(t)), mask=mask, is_causal=True))


class TinyVLM(nn.Module):
    def __init__(self):
        super().__init__()
        self.vision = VisionEncoder()
        self.connector = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 64))
        self.lm = Decoder()

    def forward(self, images, ids):
        feats = self.connector(self.vision(images))
        embeds = self.lm.tok(ids).clone()
        slots = ids == ID["<image>"]
        embeds[slots] = feats.reshape(-1, feats.size(-1))
        return self.lm(embeds)


def lm_loss(logits, labels):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)


if __name__ == "__main__":
    torch.manual_seed(4)
    model = TinyVLM()
    opt = torch.optim.AdamW(
        [
            {"params": model.vision.parameters(), "lr": 5e-4},
            {"params": model.connector.parameters(), "lr": 1e-3},
            {"params": model.lm.parameters(), "lr": 1e-3},
        ]
    )
    for step in range(150):
        images, ids, labels = batch(16)
        loss = lm_loss(model(images, ids), labels)
        opt.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        if step % 25 == 0:
            print(step, f"{loss.item():.3f}")
