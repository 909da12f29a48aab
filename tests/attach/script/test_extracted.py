"""`sightline run` on models that are trained on features which another one made of a loader's batches."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sightline.guard.check import Finding
from sightline.guard.checks.data.inputs_and_labels_misaligned import find
from sightline.guard.evidence import ExtractedSeen

Codes = Callable[[str], set[tuple[str, str]]]
SCRIPT = """
import copy
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

torch.manual_seed(0)


class Pictures(Dataset):
    def __init__(self, n=240):
        self.kind, self.tint = torch.randint(4, (n,)), torch.randint(3, (n,))
        self.x = torch.randn(n, 3, 8, 8)
        self.x[torch.arange(n), :, self.kind * 2] += 2
        self.x[torch.arange(n), self.tint] += 1.5

    def __len__(self):
        return len(self.kind)

    def __getitem__(self, i):
        return self.x[i], int(self.kind[i]), int(self.tint[i])


class Changed(Pictures):
    def __getitem__(self, i):
        x, *rest = super().__getitem__(i)
        return (x.flip(-1) if torch.rand(()) < 0.5 else x) * (0.9 + 0.2 * torch.rand(())), *rest


net = nn.Sequential(nn.Conv2d(3, 24, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(24 * 9, 40)).requires_grad_(False)
net.eval()


def prepared(x):
    return (x - x.mean((0, 2, 3), keepdim=True)) / 1.7


@torch.no_grad()
def made(loader, column=1, kept=lambda f: f):
    features, labels = [], []
    for batch in loader:
        features.append(kept(net(prepared(batch[0]))))
        labels.append(batch[column])
    return torch.cat(features), torch.cat(labels)


def fit(name, features, labels, classes=4):
    probe = type(name, (nn.Sequential,), {})(nn.Linear(features.shape[1], 32), nn.ReLU(), nn.Linear(32, classes))
    opt = torch.optim.Adam(probe.parameters(), 3e-3)
    for epoch in range(3):
        for rows in torch.randperm(len(features)).split(24):
            loss = F.cross_entropy(probe(features[rows]), labels[rows])
            opt.zero_grad()
            loss.backward()
            opt.step()


data = Pictures()
shuffled, ordered = DataLoader(data, 30, shuffle=True), DataLoader(data, 40)
features, own = made(shuffled)
fit("DataSetOrder", features, data.kind)
fit("Own", features, own)
fit("TwoClasses", features, own // 2, 2)
fit("RandomLabels", features, own[torch.randperm(len(own))])
features, tint = made(shuffled, 2)
fit("OtherTask", features, tint, 3)
unit, own = made(shuffled, kept=lambda f: F.normalize(f, dim=1))
fit("OtherPass", unit, torch.cat([b[1] for b in shuffled]))
fit("Unit", unit, own)
workers = DataLoader(Changed(), 30, shuffle=True, num_workers=2)
augmented, own = made(workers)
fit("Augmented", augmented, own)
fit("AugmentedDataSetOrder", augmented, workers.dataset.kind)
features, _ = made(ordered)
fit("InOrder", features, data.kind)
features, own = made(shuffled)
head = type("OnTheFly", (nn.Linear,), {})(40, 4)
opt = torch.optim.Adam(head.parameters(), 3e-3)
for epoch in range(3):
    for x, y, _ in shuffled:
        loss = F.cross_entropy(head(net(x)), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
judged = nn.Linear(8, 2).eval()
assert len(judged._forward_hooks)
torch.optim.SGD(judged.parameters(), lr=0.1)
assert not len(judged._forward_hooks)
copy.deepcopy(net)
torch.jit.script(net)
"""


@pytest.mark.slow
def test_features_and_labels_in_orders_of_their_own(codes: Codes) -> None:
    found = codes(SCRIPT)
    assert found == {(name, "I5") for name in ("DataSetOrder", "OtherPass", "AugmentedDataSetOrder")}


OWN, PLACED = (0, 1, 2, 3) * 8, (1, 3, 0, 2) * 8


def test_labels_of_other_samples() -> None:
    assert isinstance(find(kept=ExtractedSeen(60, PLACED, OWN, PLACED)), Finding)


@pytest.mark.parametrize(
    ("taught", "own", "placed"),
    [(OWN, OWN, PLACED), ((3, 0, 0, 2) * 8, OWN, PLACED), (PLACED[:12], OWN[:12], PLACED[:12]), (OWN, OWN, OWN)],
    ids=["their own", "of no order", "few", "in order"],
)
def test_what_proves_nothing(taught: tuple[int, ...], own: tuple[int, ...], placed: tuple[int, ...]) -> None:
    assert not isinstance(find(kept=ExtractedSeen(60, taught, own, placed)), Finding)
