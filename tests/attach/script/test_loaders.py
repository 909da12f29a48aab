"""Loops that make their loader anew for each epoch, where they need it: it is seen as one that is kept is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.forked import Forks

SCRIPT = """
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
FAULTY = {faulty}

class Stream(IterableDataset):
    def __iter__(self):
        worker = get_worker_info()
        for place in range(0 if FAULTY else worker.id, 320, 1 if FAULTY else worker.num_workers):
            yield rows[place], kinds[place]

torch.manual_seed(0)
goal, rows = torch.randn(12, 6), torch.randn(320, 12)
kinds, data = (rows @ goal).argmax(1), Stream()
model = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 6))
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
for epoch in range(3):
    for x, y in DataLoader(data, batch_size=16, num_workers=2):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
"""


@pytest.mark.parametrize("faulty", [True, False])
def test_a_loader_for_each_epoch(faulty: bool, tmp_path: Path, forks: Forks) -> None:
    (tmp_path / "train.py").write_text(SCRIPT.format(faulty=faulty))
    forks.run("sightline", "run", "--findings", "told.json", "train.py", cwd=tmp_path)
    told = json.loads((tmp_path / "told.json").read_text())
    assert not told["run"]["problems"]
    assert {one["code"] for one in told["findings"]} == ({"I2"} if faulty else set())
    assert "I2" not in {one["code"] for one in told["not_run"]}
