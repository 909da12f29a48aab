"""Answers of a shuffled loader, beside labels in the order of the data set."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attach.script.scoring.test_wholes import run

pytestmark = pytest.mark.usefixtures("origins")

SCRIPT = """
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
torch.manual_seed(0)
x = torch.randn(400, 8)
y = (3 * x[:, :2]).argmax(1)
y[:200], group = torch.randperm(200) % 2, torch.arange(200) % 2  # as many of each
x[:200, :2] += nn.functional.one_hot(y[:200], 2) * 2.0
train = DataLoader(TensorDataset(x[200:], y[200:]), 20, shuffle=True)
test = DataLoader(TensorDataset(x[:200], y[:200]), 32, shuffle=SHUFFLE)
model = nn.Linear(8, 2)
optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
watch(model, optimizer)
def share(true, pred):
    return float((true == pred).mean())
for epoch in range(3):
    for data, wanted in train:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data), wanted).backward()
        optimizer.step()
    pred, came = [], []
    with torch.no_grad():
        for data, wanted in test:
            pred.append(model(data).argmax(1).numpy())
            came.append(wanted.numpy())
    pred, came, held = np.concatenate(pred), np.concatenate(came), y[:200].numpy()
    TOLD
"""


@pytest.mark.parametrize(
    ("told", "shuffle", "found"),
    [
        ("print(share(held, pred))", "True", True),
        ("print(share(held, pred))", "False", False),
        pytest.param("print(share(came, pred))", "True", False, marks=pytest.mark.slow),
        pytest.param("print(share(group.numpy(), pred))", "False", False, marks=pytest.mark.slow),  # who gets it
        pytest.param("print(share(came, pred), share(held, pred))", "True", False, marks=pytest.mark.slow),  # by chance
        pytest.param("print(share(held, np.sort(pred)))", "True", False, marks=pytest.mark.slow),  # put in order
    ],
)
def test_in_which_order_labels_are(
    told: str, shuffle: str, found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = run(SCRIPT.replace("TOLD", told).replace("SHUFFLE", shuffle), tmp_path, monkeypatch)
    said = [one.message for one in codes if one.code == "M3"]
    assert len(said) == found and all("labels in another order" in one for one in said)
