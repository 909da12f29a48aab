"""Objects of a script's own that count, and are never set back; and such as are to go on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attach.script.scoring.test_wholes import run

pytestmark = pytest.mark.usefixtures("origins")

SCRIPT = """
import copy
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
class Matrix:
    def __init__(self, n):
        self.n, self.matrix = n, np.zeros((n, n))
    def update(self, true, pred):
        self.matrix += np.bincount(self.n * true + pred, minlength=self.n ** 2).reshape(self.n, self.n)
    def accuracy(self):
        return np.diag(self.matrix).sum() / self.matrix.sum()
    def reset(self):
        self.matrix = np.zeros((self.n, self.n))
class Meter:
    def __init__(self):
        self.val = self.sum = self.count = self.avg = 0
    def update(self, val, n=1):
        self.val = val
        self.sum += val * n
        self.count += n
        self.avg = self.sum / self.count
class Best:
    def __init__(self):
        self.best, self.seen = 0.0, 0
    def update(self, right, n):
        self.best, self.seen = max(self.best, right / n), self.seen + n
class State:
    def __init__(self):
        self.seen = self.epochs = 0
        self.total = 0.0
    def see(self, n):
        self.seen += n
    def done(self, mean):
        self.total += mean
        self.epochs += 1
        return self.total / self.epochs
class Smooth:
    def __init__(self):
        self.value, self.seen = 0.5, 0
    def update(self, value, n):
        self.value, self.seen = 0.9 * self.value + 0.1 * value, self.seen + n
class Answers:
    def __init__(self, n, k):
        self.votes, self.at = torch.zeros(n, k), 0
    def add(self, votes):
        self.votes[self.at : self.at + len(votes)] += votes
        self.at = (self.at + len(votes)) % len(self.votes)
torch.manual_seed(0)
x = torch.randn(400, 8)
y = x[:, :3].argmax(1)
train = DataLoader(TensorDataset(x[:300], y[:300]), 20, shuffle=True)
test = DataLoader(TensorDataset(x[300:], y[300:]), 30)
model = nn.Linear(8, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
watch(model, optimizer)
def learn():
    for data, wanted in train:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data), wanted).backward()
        optimizer.step()
"""
MATRIX = """
matrix = Matrix(3)
for epoch in range(3):
    learn()
    with torch.no_grad():
        for data, wanted in test:
            matrix.update(wanted.numpy(), model(data).argmax(1).numpy())
    print(matrix.accuracy())
    BACK
"""
MEAN = """
def judge(loader, meter):
    with torch.no_grad():
        for data, wanted in loader:
            meter.update((model(data).argmax(1) == wanted).float().mean().item(), len(wanted))
    return meter.avg
meters = {"accuracy": Meter(), "loss": Meter()}
for epoch in range(3):
    learn()
    BACK
    score = judge(test, meters["accuracy"])
    print(f"{epoch} {score:.3f}")
"""
PLAIN = """
for epoch in range(3):
    learn()
    right = count = 0
    BEGIN
    with torch.no_grad():
        for data, wanted in LOADER:
            logits = model(data)
            now, many = (logits.argmax(1) == wanted).sum().item(), len(wanted)
            right, count = right + now, count + many
            ADD
    print(TOLD)
"""


def plain(before: str, begin: str, add: str, told: str, loader: str = "test") -> str:
    body = PLAIN.replace("BEGIN", begin).replace("ADD", add).replace("TOLD", told).replace("LOADER", loader)
    return before + body


ON = {
    "a matrix": MATRIX.replace("BACK", "pass"),
    "a meter handed over": MEAN.replace("BACK", "pass"),
}
SOUND = {
    "a matrix set back": MATRIX.replace("BACK", "matrix.reset()"),
    "a new meter each time": MEAN.replace("BACK", "meters = {name: Meter() for name in meters}"),
    "the best so far": plain("best = Best()", "pass", "best.update(now, many)", "best.best, best.seen"),
    "a mean over epochs": plain("state = State()", "pass", "state.see(many)", "state.done(right / count)"),
    "smoothed": plain("smooth = Smooth()", "pass", "smooth.update(now / many, many)", "smooth.value, smooth.seen"),
    "all that was seen": plain("meter = Meter()", "pass", "meter.update(now, 1)", "meter.sum, right / count"),
    "what came, of all": plain(
        "meter = Meter()",
        "begun = copy.copy(meter)",
        "meter.update(now / many, many)",
        "(meter.sum - begun.sum) / (meter.count - begun.count)",
    ),
    "answers of several epochs, together": plain(
        "every = Answers(100, 3)",
        "pass",
        "every.add(nn.functional.one_hot(logits.argmax(1), 3))",
        "(every.votes.argmax(1) == y[300:]).float().mean()",
    ),
    "a stream": plain(
        "meter = Meter()",
        "coming = DataLoader(TensorDataset(x[100 * epoch :][:100], y[100 * epoch :][:100]), 30)",
        "meter.update(now / many, many)",
        "meter.avg",
        "coming",
    ),
}
QUICK = ("a matrix set back", "a mean over epochs", "a stream")  # the others take ten seconds


@pytest.mark.parametrize("name", ON)
def test_what_is_never_set_back(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run(SCRIPT + ON[name], tmp_path, monkeypatch)
    assert [(one.code, one.severity) for one in found] == [("M3", "warning")]
    assert "is never set back: beside its 100 it counts 100 of before" in found[0].message


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in SOUND]
)
def test_what_is_as_it_should_be(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [one.code for one in run(SCRIPT + SOUND[name], tmp_path, monkeypatch) if one.code == "M3"] == []
