"""Shares of hits, of the rows that there are and of more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attach.script.scoring.test_wholes import run

pytestmark = pytest.mark.usefixtures("origins")

SCRIPT = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
torch.manual_seed(0)
x = torch.randn(400, 8)
y = (3 * x[:, :3]).argmax(1)
train = DataLoader(TensorDataset(x, y), 20, shuffle=True)
batch_size = 64
some = TensorDataset(x[:270], y[:270])
def readable(rows):
    kept = [(a, b) for a, b in rows if SKIP]
    return torch.stack([a for a, _ in kept]), torch.stack([b for _, b in kept])
test = DataLoader(some, batch_size, collate_fn=readable)
model = nn.Linear(8, 3)
optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
watch(model, optimizer)
for epoch in range(2):
    for _ in range(2):
        for data, wanted in train:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(data), wanted).backward()
            optimizer.step()
    correct = count = 0
    with torch.no_grad():
        for data, wanted in test:
            correct += (model(data).argmax(1) == wanted).sum().item()
            count += len(wanted)
    print(f"accuracy {TOLD:.2f}")
"""


@pytest.mark.parametrize(
    ("told", "skip", "found"),
    [
        ("100 * correct / (len(test) * batch_size)", "True", True),
        pytest.param("correct / (len(test) * test.batch_size)", "True", True, marks=pytest.mark.slow),
        ("100 * correct / len(test.dataset)", "True", False),
        pytest.param("correct / count", "True", False, marks=pytest.mark.slow),
        pytest.param("correct / len(test)", "True", False, marks=pytest.mark.slow),  # hits of a batch
        pytest.param("(correct + 1) / (count + 3)", "True", False, marks=pytest.mark.slow),
        pytest.param("count / (len(test) * batch_size)", "True", False, marks=pytest.mark.slow),  # how full they are
        pytest.param("correct / (len(test) * batch_size)", "a[0] > -1.5", False, marks=pytest.mark.slow),  # all else: 0
    ],
)
def test_what_hits_are_divided_by(
    told: str, skip: str, found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = run(SCRIPT.replace("TOLD", told).replace("SKIP", skip), tmp_path, monkeypatch)
    said = [one.message for one in codes if one.code == "M3"]
    assert len(said) == found and all("320 right answers, and there are 270" in one for one in said)
