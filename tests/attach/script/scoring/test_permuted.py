"""Classes in another order than the labels, and vectors whose least similar are taken for the most similar."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sightline.attach.script.scoring.permuted import permuted
from tests.attach.script.scoring.test_scores import run
from tests.attach.script.scoring.test_wholes import run as whole

pytestmark = pytest.mark.usefixtures("origins")

NAMES = """
import torch
import torch.nn.functional as F
from torch import nn

NAMES = ["dog", "cat", "owl", "bee"]
OTHERS = OTHER
def rows():
    x = torch.randn(192, 8, generator=torch.Generator().manual_seed(0))
    return [(one, int((one[:4] * 3).argmax())) for one in x]
net = lambda: nn.Linear(8, 4)
def loss(net, batch):
    return F.cross_entropy(net(batch[0]), batch[1])
def accuracy(said, true):
    return sum(a == b for a, b in zip(said, true)) / len(true)
def evaluate(net, loader):
    said, true = [], []
    for x, y in loader:
        said += [OTHERS[i] for i in net(x).argmax(1).tolist()]
        true += [NAMES[i] for i in y.tolist()]
    return accuracy(said, true)
"""

INDICES = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
torch.manual_seed(0)
x = torch.randn(400, 8)
y = (3 * x[:, :4]).argmax(1)
test = DataLoader(TensorDataset(x[300:], torch.tensor(ORDER)[y[300:]]), 50)
model = nn.Linear(8, 4)
optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
watch(model, optimizer)
for epoch in range(3):
    for at in range(0, 300, 20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[at : at + 20]), y[at : at + 20]).backward()
        optimizer.step()
    hits = 0
    with torch.no_grad():
        for data, wanted in test:
            hits += (model(data).argmax(1) == wanted).sum().item()
    accuracy = hits / len(test.dataset)
"""

PAIRS = """
import torch
import torch.nn.functional as F
from torch import nn

def rows():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(96, 6, generator=draw)
    return list(zip(x, x @ torch.randn(6, 9, generator=draw)))
class net(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(6, 5), nn.Linear(9, 5)
    def forward(self, a, b):
        return F.normalize(self.one(a), dim=1), F.normalize(self.other(b), dim=1)
def loss(net, batch):
    one, other = net(*batch)
    return F.cross_entropy(8 * one @ other.T, torch.arange(len(one)))
def recall(one, other, k=3):
    ranked = (one @ other.T).argsort(dim=1, descending=DOWN)[:, :k]
    return (ranked == torch.arange(len(one))[:, None]).any(1).float().mean().item()
def apart(one, other):
    return (1 - F.cosine_similarity(one, other)).mean().item() / 2
def evaluate(net, loader):
    parts = [net(a, b) for a, b in loader]
    one, other = (torch.cat(part) for part in zip(*parts))
    return recall(one, other), apart(one, other)
"""


@pytest.mark.parametrize(("other", "found"), [('["cat", "bee", "dog", "owl"]', True), ("NAMES", False)])
def test_names_of_classes(other: str, found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = [one.message for one in run(NAMES.replace("OTHER\n", other + "\n"), tmp_path, monkeypatch)[0]]
    assert len(said) == found and all("in the order of the model's classes" in one for one in said)


@pytest.mark.parametrize(("order", "found"), [("[2, 0, 3, 1]", True), ("[0, 1, 2, 3]", False)])
def test_places_of_classes(order: str, found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = [one.message for one in whole(INDICES.replace("ORDER", order), tmp_path, monkeypatch)]
    assert len(said) == found and all("in the order of the model's classes" in one for one in said)


def test_a_weak_model_and_one_of_two_classes() -> None:
    draw = torch.Generator().manual_seed(0)
    wanted = torch.randint(0, 4, (200,), generator=draw)
    confused = torch.where(torch.rand(200, generator=draw) < 0.5, (wanted + 1) % 4, wanted)
    assert permuted(wanted.roll(1), wanted) is permuted(confused, wanted) is permuted(wanted, wanted) is None
    assert permuted(1 - wanted % 2, wanted % 2) is None
    assert permuted(wanted // 2, wanted) is None


@pytest.mark.parametrize(("down", "found"), [("False", True), ("True", False)])
def test_the_least_similar_first(down: str, found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = [one.message for one in run(PAIRS.replace("DOWN", down), tmp_path, monkeypatch)[0]]
    assert len(said) == found and all("the least similar of all" in one for one in said)
