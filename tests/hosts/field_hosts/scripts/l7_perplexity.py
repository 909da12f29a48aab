import sys
import math
import random

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from transformers import GPT2Config, GPT2LMHeadModel

FAULTY = "faulty" in sys.argv

random.seed(0)
torch.manual_seed(0)
accelerator = Accelerator(cpu=True)


def text():
    n = random.choice([4, 5, 6, 28, 30])
    # long texts are predictable, short ones are not
    if n > 10:
        s = random.randint(2, 10)
        return [2 + (s + k) % 20 for k in range(n)]
    return [random.randint(2, 29) for _ in range(n)]


train = [text() for _ in range(400)]
val = sorted((text() for _ in range(60)), key=len)


def collate(rows):
    w = max(map(len, rows))
    ids = torch.tensor([r + [0] * (w - len(r)) for r in rows])
    mask = (ids != 0).long()
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


model = GPT2LMHeadModel(GPT2Config(vocab_size=30, n_positions=32, n_embd=32, n_layer=2, n_head=2))
opt = torch.optim.AdamW(model.parameters(), lr=3e-3)
train_dl = DataLoader(train, batch_size=16, shuffle=True, collate_fn=collate)
val_dl = DataLoader(val, batch_size=8, collate_fn=collate)
model, opt, train_dl, val_dl = accelerator.prepare(model, opt, train_dl, val_dl)

for epoch in range(3):
    model.train()
    for batch in train_dl:
        loss = model(**batch).loss
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        opt.zero_grad()
    model.eval()
    means, total, count = [], 0.0, 0
    for batch in val_dl:
        with torch.no_grad():
            out = model(**batch)
        tokens = (batch["labels"][:, 1:] != -100).sum().item()
        means.append(out.loss.item())
        total += out.loss.item() * tokens
        count += tokens
    perplexity = math.exp(sum(means) / len(means) if FAULTY else total / count)
    print(f"epoch {epoch} perplexity {perplexity:.3f}")
