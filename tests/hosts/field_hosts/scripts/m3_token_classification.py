import sys
import random

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import BertConfig, BertForTokenClassification, Trainer, TrainingArguments, set_seed

FAULTY = "faulty" in sys.argv

set_seed(11)
PAD, CLS, SEP = 0, 1, 2
NOUNS, VERBS, OTHER = range(3, 13), range(13, 23), range(23, 43)


class Tagged(Dataset):
    def __init__(self, n, seed):
        rng = random.Random(seed)
        self.rows = []
        for _ in range(n):
            length = rng.randint(4, 12)
            ids, tags = [CLS], [-100]
            for _ in range(length):
                kind = rng.randint(0, 2)
                ids.append(rng.choice((OTHER, NOUNS, VERBS)[kind]))
                tags.append(kind)
            self.rows.append((ids + [SEP], tags + [-100]))

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        ids, tags = self.rows[i]
        return {"input_ids": ids, "labels": tags}


def collate(features):
    width = max(len(f["input_ids"]) for f in features)
    ids = torch.full((len(features), width), PAD)
    labels = torch.full((len(features), width), -100)
    for i, f in enumerate(features):
        ids[i, : len(f["input_ids"])] = torch.tensor(f["input_ids"])
        labels[i, : len(f["labels"])] = torch.tensor(f["labels"])
    return {"input_ids": ids, "attention_mask": (ids != PAD).long(), "labels": labels}


def compute_metrics(eval_pred):
    logits, labels = eval_pred
    preds = np.argmax(logits, axis=-1)
    if FAULTY:
        return {"accuracy": float((preds == labels).mean())}
    else:
        keep = labels != -100
        return {"accuracy": float((preds[keep] == labels[keep]).mean())}


model = BertForTokenClassification(
    BertConfig(
        vocab_size=43,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
        num_labels=3,
    )
)
trainer = Trainer(
    model=model,
    args=TrainingArguments(
        "out",
        per_device_train_batch_size=16,
        per_device_eval_batch_size=16,
        num_train_epochs=3,
        learning_rate=2e-3,
        eval_strategy="epoch",
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        logging_steps=10,
    ),
    train_dataset=Tagged(320, 0),
    eval_dataset=Tagged(64, 1),
    data_collator=collate,
    compute_metrics=compute_metrics,
)
trainer.train()
print(trainer.evaluate())
