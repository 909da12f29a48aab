"""Metrics that read the right thing, and are not perfect for the truth: what they divide by."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sightline.attach.script.scoring.short import short
from tests.attach.script.scoring.scripts import CLASSES, PLACES
from tests.attach.script.scoring.test_scores import run

pytestmark = pytest.mark.usefixtures("origins")

MAPS = """
import torch
import torch.nn.functional as F
from torch import nn

CLASSES = 6
def rows():
    draw = torch.Generator().manual_seed(0)
    made = []
    for _ in range(64):
        few = torch.randperm(CLASSES, generator=draw)[:3]
        label = few[torch.randint(0, 3, (6, 8), generator=draw)]
        x = F.one_hot(label, CLASSES).permute(2, 0, 1).float()
        made.append((x + 0.3 * torch.randn(x.shape, generator=draw), label))
    return made
net = lambda: nn.Conv2d(CLASSES, CLASSES, 1)
def loss(net, batch):
    return F.cross_entropy(net(batch[0]), batch[1])
def mean_iou(pred, target):
    scores = []
    for c in range(CLASSES):
        p, t = pred == c, target == c
        if SKIP:
            continue
        scores.append((p & t).sum().item() / ((p | t).sum().item() + 1e-6))
    return sum(scores) / len(scores)
def evaluate(net, loader):
    told = []
    for x, y in loader:
        pred = net(x).argmax(1)
        told += [mean_iou(p, t) for p, t in zip(pred, y)]
    return sum(told) / len(told)
"""

DICE = """
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

def rows():
    draw = torch.Generator().manual_seed(0)
    y = (torch.rand(64, 1, 6, 8, generator=draw) < 0.3).float()
    return list(zip(y + 0.3 * torch.randn(y.shape, generator=draw), y))
net = lambda: nn.Sequential(nn.Conv2d(1, 8, 1), nn.ReLU(), nn.Conv2d(8, 1, 1))
def loss(net, batch):
    return F.binary_cross_entropy_with_logits(net(batch[0]), batch[1])
def overlap(pred, target):
    return FACTOR * (pred * target).sum() / (pred.sum() + target.sum() + 1e-7)
def evaluate(net, loader):
    told = []
    for x, y in loader:
        said = (net(x).sigmoid() > 0.5).float()
        told += [overlap(p.numpy(), t.numpy()) for p, t in zip(said[:, 0], y[:, 0])]
    return float(np.mean(told)) TIMES
"""

TAGS = """
import torch
import torch.nn.functional as F
from torch import nn

def rows():
    draw = torch.Generator().manual_seed(0)
    return [(torch.randint(1, 9, (12,), generator=draw), int(n)) for n in torch.randint(4, 12, (96,), generator=draw)]
net = lambda: nn.Sequential(nn.Embedding(9, 16), nn.Linear(16, 4))
def loss(net, batch):
    ids, lengths = batch
    mask = torch.arange(12) < lengths[:, None]
    return F.cross_entropy(net(ids)[mask], (ids % 4)[mask])
def tag_accuracy(pred, tags, mask):
    return ((pred == tags) & mask).sum().item() / COUNT
def evaluate(net, loader):
    told = []
    for ids, lengths in loader:
        mask = torch.arange(12) < lengths[:, None]
        told.append(tag_accuracy(net(ids).argmax(-1), (ids % 4) * mask, mask))
    return sum(told) / len(told)
"""

SEVERAL = """
import torch
import torch.nn.functional as F
from torch import nn

def rows():
    draw = torch.Generator().manual_seed(0)
    y = (torch.rand(160, 4, generator=draw) < 0.4).float()
    return list(zip(y + 0.3 * torch.randn(y.shape, generator=draw), y))
net = lambda: nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 4))
def loss(net, batch):
    return F.binary_cross_entropy_with_logits(net(batch[0]), batch[1])
def evaluate(net, loader):
    right = count = 0
    for x, y in loader:
        right += ((net(x).sigmoid() > 0.5) == y.bool()).all(1).sum().item()
        count += COUNT
    return right / count
"""


FAULTY = {
    "classes that are not there": (MAPS.replace("SKIP", "False"), "which it gives for a truth that has every class"),
    "half of an overlap": (DICE.replace("FACTOR", "1.0").replace("TIMES", ""), "scores 0.5 for the ground truth"),
    "padding in the count": (TAGS.replace("COUNT", "tags.numel()"), "as many right answers as there are places"),
    "columns in the count": (SEVERAL.replace("COUNT", "y.numel()"), "as many right answers as there are places"),
}
CLEAN = {
    "classes that are there": MAPS.replace("SKIP", "not (p | t).any()"),
    "an overlap": DICE.replace("FACTOR", "2.0").replace("TIMES", ""),
    "an overlap, doubled by the caller": DICE.replace("FACTOR", "1.0").replace("TIMES", "* 2"),
    "no padding in the count": TAGS.replace("COUNT", "mask.sum().item()"),
    "rows": SEVERAL.replace("COUNT", "len(y)"),
    "hits for each row": TAGS.replace("COUNT", "len(tags)"),
    "all that are right, and what was said of yes": SEVERAL.replace(".all(1)", "[y.bool()]").replace(
        "COUNT", "y.sum().item()"
    ),
    "hits in two loops, each over half of the rows": CLASSES
    + """
def evaluate(net, loader):
    batches, right = iter(loader), 0
    for _ in range(2):
        x, y = next(batches)
        right += (net(x).argmax(1) == y).sum().item()
    for x, y in batches:
        right += (net(x).argmax(1) == y).sum().item()
    return right / 192
""",
    "codes in use": PLACES
    + """
def used(pred, target):
    return len(set(pred.flatten().tolist())) / 16
def evaluate(net, loader):
    return sum(used(net(x).argmax(1), y) for x, y in loader)
""",
}


@pytest.mark.parametrize("name", FAULTY)
def test_a_truth_that_is_not_the_whole(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, says = FAULTY[name]
    found, _ = run(source, tmp_path, monkeypatch)
    assert [one.severity for one in found] == ["error"] and says in found[0].message


@pytest.mark.parametrize("name", CLEAN)
def test_a_truth_that_is_the_whole_or_no_share(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = run(CLEAN[name], tmp_path, monkeypatch)
    assert found == []


@pytest.mark.parametrize("counts", [True, False])
def test_places_that_the_loss_leaves_out(counts: bool) -> None:
    target = torch.randint(1, 5, (12, 8)) * (torch.arange(8) < torch.randint(3, 8, (12, 1)))

    def score(these: torch.Tensor, those: torch.Tensor) -> dict[str, float]:
        kept = those >= (0 if counts else 1)
        return {"": (these == those)[kept].double().mean().item()}

    assert len(short(target, target, score, pad=0)) == counts
    assert short(target, target, score) == {}
