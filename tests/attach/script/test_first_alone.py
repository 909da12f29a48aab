"""A loop that trains on the first sample of each batch, and loops that may: of one sample, or of all in turn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.forked import Forks

SCRIPT = """
import sys, torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
torch.manual_seed(0)
torch.set_num_threads(1)
y = torch.randint(0, 3, (120, 6))
x = 2 * nn.functional.one_hot(y, 5).float() + torch.randn(120, 6, 5)  # (recordings, windows, features)
model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
how = sys.argv[1]
loader = DataLoader(TensorDataset(x, y), 1 if how == "one" else 5, shuffle=True)
for epoch in range(3):
    for some, classes in loader:
        for place in range(len(some) if how == "all in turn" else 1):
            loss = nn.functional.cross_entropy(model(some[place]), classes[place])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
"""


@pytest.mark.parametrize(
    ("how", "codes"), [("first", {"I4"}), ("all in turn", set()), pytest.param("one", set(), marks=pytest.mark.slow)]
)
def test_the_first_sample_of_each_batch(how: str, codes: set[str], tmp_path: Path, forks: Forks) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    done = forks.run("sightline", "run", "--findings", "told.json", "train.py", how, cwd=tmp_path)
    told = json.loads((tmp_path / "told.json").read_text())
    assert {one["code"] for one in told["findings"] if one["severity"] != "note"} == codes, done.stderr
    assert told["run"]["problems"] == []
