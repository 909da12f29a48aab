"""`sightline run` of loops whose counts go on from evaluation to evaluation, and of such as are to go on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.forked import Forks

SCRIPT = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
torch.manual_seed(0)
x = torch.randn(400, 8)
y = x[:, :3].argmax(1)
train = DataLoader(TensorDataset(x[:300], y[:300]), 20, shuffle=True)
test = DataLoader(TensorDataset(x[300:], y[300:]), 30)
model = nn.Linear(8, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
right = every = 0
for epoch in range(4):
    for data, wanted in train:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data), wanted).backward()
        optimizer.step()
    BEGIN
    with torch.no_grad():
        for data, wanted in test:
            right += (model(data).argmax(1) == wanted).sum().item()
            every += len(wanted)
    print(epoch, TOLD)
"""
AHEAD = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
torch.manual_seed(0)
x = torch.randn(400, 8)
stream = DataLoader(TensorDataset(x, x[:, :3].argmax(1)), 20)
model = nn.Linear(8, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
right = every = 0
for data, wanted in stream:
    with torch.no_grad():  # judged before it is learnt from
        right += (model(data).argmax(1) == wanted).sum().item()
        every += len(wanted)
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(data), wanted).backward()
    optimizer.step()
    print(right / every)
"""


@pytest.mark.parametrize(
    ("begin", "told", "found"),
    [
        ("pass", "right / every", True),
        pytest.param("pass", "100 * right / every", True, marks=pytest.mark.slow),
        ("right = every = 0", "right / every", False),
        pytest.param("before = right", "(right - before) / len(test.dataset), every", False, marks=pytest.mark.slow),
    ],
    ids=["goes on", "in percent", "from zero", "of all, told apart"],
)
def test_counts(begin: str, told: str, found: bool, tmp_path: Path, forks: Forks) -> None:
    (tmp_path / "train.py").write_text(SCRIPT.replace("BEGIN", begin).replace("TOLD", told))
    assert _codes(tmp_path, forks) == (["M3"] if found else [])


def test_a_stream_that_is_judged_before_it_is_learnt_from(tmp_path: Path, forks: Forks) -> None:
    (tmp_path / "train.py").write_text(AHEAD)
    assert _codes(tmp_path, forks) == []


def _codes(folder: Path, forks: Forks) -> list[str]:
    forks.run("sightline", "run", "--findings", "told.json", "train.py", cwd=folder)
    told = json.loads((folder / "told.json").read_text())
    assert told["run"]["problems"] == []
    return [finding["code"] for finding in told["findings"]]
