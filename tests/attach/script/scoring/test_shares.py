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
        ("correct / len(train.dataset)", "True", True),
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
    assert len(said) == found and all(" right answers, and there are 270" in one for one in said)


AHEAD = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
torch.manual_seed(0)
x = torch.randint(1, 9, (240, 10))
lengths = torch.randint(3, 10, (240,))
y = torch.where(torch.arange(10) < lengths[:, None], x % 4, -100)
class Ahead(DataLoader):
    def __iter__(self):
        batches = super().__iter__()
        now = next(batches)
        for then in batches:
            yield now
            now = then
        yield now
class Accelerator:
    num_processes = 1
    def gather_for_metrics(self, values):
        return torch.utils.data.default_convert(values)
Accelerator.__module__ = "accelerate.accelerator"
accelerator = Accelerator()
test = Ahead(TensorDataset(x[180:], y[180:]), 20)
model = nn.Sequential(nn.Embedding(9, 16), nn.Linear(16, 4))
optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
watch(model, optimizer)
def evaluate():
    right = total = 0
    for data, wanted in test:
        with torch.no_grad():
            said = model(data).argmax(-1)
        said, wanted = accelerator.gather_for_metrics((said, wanted))
        kept = KEPT
        right += (said == wanted)[kept].sum().item()
        total += kept.sum().item()
    return right / total
for epoch in range(2):
    for at in range(0, 180, 20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[at : at + 20]).flatten(0, 1), y[at : at + 20].flatten()).backward()
        optimizer.step()
    print(evaluate())
"""


@pytest.mark.parametrize(("kept", "found"), [("wanted > -200", True), ("wanted != -100", False)])
def test_a_host_that_fetches_ahead_and_gathers(
    kept: str, found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = [one.message for one in run(AHEAD.replace("KEPT", kept), tmp_path, monkeypatch) if one.code == "M3"]
    assert len(said) == found and all("labels where there are none" in one for one in said)


@pytest.mark.parametrize(
    ("adds", "told", "found"),
    [("=", "correct / len(wanted)", True), ("+=", "correct / count", False)],
)
def test_a_share_of_the_last_batch(
    adds: str, told: str, found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = SCRIPT.replace("correct +=", f"correct {adds}").replace("TOLD:.2f", told).replace("SKIP", "True")
    source = source.replace('print(f"accuracy {', "accuracy = (").replace('}")', ")")
    said = [one.message for one in run(source, tmp_path, monkeypatch) if one.code == "M3"]
    assert len(said) == found and all("tells of the last of 5 batches alone: 1 where" in one for one in said)
