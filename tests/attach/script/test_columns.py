"""A data set of somebody's own, whose images the Trainer takes out of each row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.forked import HF, Forks

SCRIPT = """
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

class Rows(Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, place):
        made = torch.Generator().manual_seed(place)
        sight = torch.randn(3, 4, 4, generator=made)
        return {"words": torch.randint(0, 9, (5,), generator=made), "sight": sight, "labels": int(sight.mean() > 0)}

class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.eye, self.out = nn.Embedding(9, 16), nn.Conv2d(3, 16, 4), nn.Linear(16, 2)

    def forward(self, words, labels=None, **more):
        inner = self.table(words).mean(1)
        if more.get("sight") is not None:
            inner = inner + self.eye(more["sight"]).flatten(1)
        logits = self.out(inner)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}

torch.manual_seed(0)
args = TrainingArguments("out", max_steps=12, per_device_train_batch_size=8, report_to=[], use_cpu=True,
                         disable_tqdm=True, save_strategy="no", remove_unused_columns={dropped})
Trainer(Both(), args, train_dataset=Rows()).train()
"""


@pytest.mark.parametrize("dropped", [True, False])
def test_a_column_that_the_model_asks_for(dropped: bool, tmp_path: Path, forks: Forks) -> None:
    (tmp_path / "train.py").write_text(SCRIPT.replace("{dropped}", str(dropped)))
    forks.run("sightline", "run", "--findings", "told.json", "train.py", cwd=tmp_path, knows=HF)
    told = json.loads((tmp_path / "told.json").read_text())
    assert not told["run"]["problems"]
    found = [one["message"] for one in told["findings"] if one["code"] == "L8"]
    assert len(found) == dropped and all("'sight'" in one for one in found)
