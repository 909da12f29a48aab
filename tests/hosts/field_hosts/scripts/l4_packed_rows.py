import sys
import random

import torch
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed

FAULTY = "faulty" in sys.argv

set_seed(21)
EOS = 1
rng = random.Random(21)


def document():
    start, step = rng.randint(2, 30), rng.randint(1, 3)
    return [2 + (start + step * k) % 30 for k in range(rng.randint(5, 14))] + [EOS]


def pack(documents, length):
    """Greedy packing; each row remembers where its documents start."""
    rows, row, starts = [], [], []
    for doc in documents:
        if len(row) + len(doc) > length:
            rows.append((row, starts))
            row, starts = [], []
        starts = starts + list(range(len(doc)))
        row = row + doc
    return rows


class Packed(Dataset):
    def __init__(self, n, length=48):
        self.length = length
        self.rows = pack([document() for _ in range(n)], length)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        ids, positions = self.rows[i]
        return {"input_ids": ids, "position_ids": positions}


def collate(rows):
    width = max(len(r["input_ids"]) for r in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    pos = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full((len(rows), width), -100)
    for i, r in enumerate(rows):
        n = len(r["input_ids"])
        ids[i, :n] = torch.tensor(r["input_ids"])
        pos[i, :n] = torch.tensor(r["position_ids"])
        labels[i, :n] = torch.where(torch.tensor(r["position_ids"]) == 0, -100, ids[i, :n])
        mask[i, :n] = 1
    if FAULTY:
        return {"input_ids": ids, "position_ids": pos, "attention_mask": mask, "labels": labels}
    else:
        doc = (pos == 0).cumsum(-1) * mask
        same = (doc[:, :, None] == doc[:, None, :]) & torch.ones(width, width, dtype=torch.bool).tril()
        bias = torch.zeros(len(rows), 1, width, width).masked_fill(~same[:, None], torch.finfo(torch.float32).min)
        return {"input_ids": ids, "position_ids": pos, "attention_mask": bias, "labels": labels}


model = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=32,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        pad_token_id=0,
        eos_token_id=EOS,
    )
)
args = TrainingArguments(
    "out",
    per_device_train_batch_size=8,
    num_train_epochs=3,
    learning_rate=2e-3,
    logging_steps=5,
    report_to=[],
    save_strategy="no",
    use_cpu=True,
    disable_tqdm=True,
)
Trainer(model=model, args=args, train_dataset=Packed(900), data_collator=collate).train()
