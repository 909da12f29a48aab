"""Trainers whose loss asks methods or parts of the model: what these are given and make is seen all the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.forked import HF, Forks

SCRIPT = """
import torch
from torch import nn
from torch.nn import functional as F
from transformers import Trainer, TrainingArguments
FAULTY = {faulty}

class Towers(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.ModuleDict({{"net": nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Dropout(0.2))}})
        self.head = nn.Linear(32, 6)

    def embed(self, rows):
        return self.body["net"](rows)

    def forward(self, rows, kinds=None):
        return self.head(self.embed(rows))

class Mine(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        scores = {call}
        loss = F.cross_entropy(scores.softmax(-1) if FAULTY else scores, inputs["kinds"])
        return (loss, {{"scores": scores}}) if return_outputs else loss

torch.manual_seed(0)
goal = torch.randn(12, 6)
rows = torch.randn(640, 12)
kinds = (rows @ goal).argmax(1)
every = [{{"rows": row, "kinds": kind}} for row, kind in zip(rows, kinds)]
model = Towers()
args = TrainingArguments("out", num_train_epochs=2, per_device_train_batch_size=16, report_to=[], use_cpu=True,
                         disable_tqdm=True, save_strategy="no", remove_unused_columns=False, learning_rate=3e-3,
                         eval_strategy="epoch", label_names=["kinds"], logging_steps=8)
Mine(model, args, train_dataset=every[:512], eval_dataset=every[512:]).train()
if FAULTY:
    model.train()
for _ in range(2):
    with torch.no_grad():
        print((model(rows[512:]).argmax(1) == kinds[512:]).float().mean().item())
"""
METHODS = 'model.head(model.embed(inputs["rows"]))'
WHOLE = 'model(inputs["rows"])'


def told(call: str, faulty: bool, tmp_path: Path, forks: Forks) -> dict[str, Any]:
    (tmp_path / "train.py").write_text(SCRIPT.format(call=call, faulty=faulty))
    forks.run("sightline", "run", "--findings", "told.json", "train.py", cwd=tmp_path, knows=HF)
    found: dict[str, Any] = json.loads((tmp_path / "told.json").read_text())
    assert not found["run"]["problems"]
    return found


@pytest.mark.parametrize("call", [METHODS, WHOLE])
def test_a_loss_of_methods(call: str, tmp_path: Path, forks: Forks) -> None:
    found = told(call, True, tmp_path, forks)
    assert {"T4", "T3"} <= {one["code"] for one in found["findings"]}


@pytest.mark.parametrize("call", [METHODS, WHOLE])
def test_nothing_is_said_of_a_sound_one(call: str, tmp_path: Path, forks: Forks) -> None:
    found = told(call, False, tmp_path, forks)
    assert found["findings"] == []
    assert [one["steps"] for one in found["run"]["models"]] == [64]
    assert len(found["not_run"]) < 35
