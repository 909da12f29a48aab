"""mini VLM: tiny ViT -> perceiver-style pooling -> Qwen2 decoder; answers 'how many dots'"""

import argparse
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers import ViTConfig, ViTModel

ap = argparse.ArgumentParser()
ap.add_argument("--epochs", type=int, default=6)
ap.add_argument("--bs", type=int, default=16)
ap.add_argument("--seed", type=int, default=5)
args = ap.parse_args()
torch.manual_seed(args.seed)

vocab = [
    "<pad>",
    "<eos>",
    "<img>",
    "q:",
    "how",
    "many",
    "dots",
    "are",
    "there",
    "please",
    "a:",
    "none",
    "one",
    "two",
    "three",
    "four",
]
tok = {w: i for i, w in enumerate(vocab)}
PAD, EOS = tok["<pad>"], tok["<eos>"]
IMG = tok["<img>"]
QUERIES = 4


class Dots(Dataset):
    def __init__(self, n, seed):
        g = torch.Generator().manual_seed(seed)
        self.data = []
        for _ in range(n):
            k = int(torch.randint(5, (1,), generator=g))
            img = torch.full((3, 24, 24), -1.0)
            for c in torch.randperm(9, generator=g)[:k].tolist():
                r, q = divmod(c, 3)
                img[:, r * 8 + 1 : r * 8 + 7, q * 8 + 1 : q * 8 + 7] = 1.0
            img = img + 0.05 * torch.randn(img.shape, generator=g)
            polite = bool(torch.randint(2, (1,), generator=g))
            q = (
                ["q:", "how", "many", "dots"]
                + (["are", "there"] if not polite else ["are", "there", "please"])
                + ["a:"]
            )
            self.data.append((img, q, vocab[tok["none"] + k]))

    def __len__(self):
        return len(self.data)

    def __getitem__(self, i):
        return self.data[i]


def collate(rows):
    ids, labels = [], []
    for _, q, a in rows:
        p = [IMG] * QUERIES + [tok[w] for w in q]
        ids.append(p + [tok[a], EOS])
        labels.append([-100] * len(p) + [tok[a], EOS])
    width = max(map(len, ids))
    labels = [r + [-100] * (width - len(r)) for r in labels]
    ids = [r + [PAD] * (width - len(r)) for r in ids]
    return {
        "pixel_values": torch.stack([r[0] for r in rows]),
        "input_ids": torch.tensor(ids),
        "labels": torch.tensor(labels),
    }


class Pool(nn.Module):
    def __init__(self, d_in, d_out, n):
        super().__init__()
        self.q = nn.Parameter(torch.randn(n, d_in) * 0.02)
        self.att = nn.MultiheadAttention(d_in, 4, batch_first=True)
        self.norm = nn.LayerNorm(d_in)
        self.out = nn.Linear(d_in, d_out)

    def forward(self, x):
        q = self.q.expand(len(x), -1, -1)
        return self.out(self.norm(q + self.att(q, x, x, need_weights=False)[0]))


class MiniVLM(nn.Module):
    def __init__(self):
        super().__init__()
        self.eye = ViTModel(
            ViTConfig(
                hidden_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=128,
                image_size=24,
                patch_size=8,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            ),
            add_pooling_layer=False,
        )
        self.pool = Pool(64, 64, QUERIES)
        self.lm = Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=len(vocab),
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                pad_token_id=PAD,
                bos_token_id=EOS,
                eos_token_id=EOS,
            )
        )

    def forward(self, pixel_values, input_ids, labels=None):
        image = self.pool(self.eye(pixel_values=pixel_values).last_hidden_state)
        text = self.lm.get_input_embeddings()(input_ids[:, QUERIES:])
        embeds = torch.cat([image, text], dim=1)
        return self.lm(inputs_embeds=embeds, attention_mask=(input_ids != PAD).long(), labels=labels)


model = MiniVLM()
train = DataLoader(Dots(800, 1), batch_size=args.bs, shuffle=True, collate_fn=collate)
test = DataLoader(Dots(200, 2), batch_size=50, collate_fn=collate)
opt = torch.optim.AdamW(model.parameters(), lr=1e-3)
sched = torch.optim.lr_scheduler.OneCycleLR(opt, max_lr=1.5e-3, epochs=args.epochs, steps_per_epoch=len(train))
for epoch in range(args.epochs):
    model.train()
    for batch in train:
        opt.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        sched.step()
    model.eval()
    hit = total = 0
    with torch.no_grad():
        for b in test:
            logits = model(**b).logits
            first = (b["labels"] != -100).int().argmax(1)
            rows = torch.arange(len(first))
            hit += (logits[rows, first - 1].argmax(-1) == b["labels"][rows, first]).sum().item()
            total += len(first)
    print(f"epoch {epoch}: loss {loss.item():.3f} accuracy {hit / total:.3f}")
