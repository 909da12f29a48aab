import sys
import random

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments, set_seed

FAULTY = "faulty" in sys.argv

set_seed(0)


class Crops(Dataset):
    def __init__(self, n):
        rng = np.random.default_rng(0)
        self.labels = rng.integers(0, 2, n)
        self.big = rng.normal(0, 0.3, size=(n, 3, 40, 40)).astype("float32")
        self.big[np.arange(n), self.labels] += 1.0
        if FAULTY:
            self.buffer = np.zeros((3, 32, 32), dtype="float32")

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        top, left = random.randint(0, 8), random.randint(0, 8)
        if FAULTY:
            self.buffer[:] = self.big[i, :, top : top + 32, left : left + 32]
            return {"pixel_values": torch.from_numpy(self.buffer), "labels": int(self.labels[i])}
        else:
            crop = self.big[i, :, top : top + 32, left : left + 32].copy()
            return {"pixel_values": torch.from_numpy(crop), "labels": int(self.labels[i])}


model = ResNetForImageClassification(
    ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=2)
)
args = TrainingArguments(
    "out",
    per_device_train_batch_size=16,
    num_train_epochs=2,
    learning_rate=2e-3,
    logging_steps=5,
    report_to=[],
    save_strategy="no",
    use_cpu=True,
    disable_tqdm=True,
)
Trainer(model=model, args=args, train_dataset=Crops(256)).train()
