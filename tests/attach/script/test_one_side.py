"""M1 where the watched model reads one side of pairs: the items of a catalogue, of which some are new."""

from __future__ import annotations

import pytest

from tests.attach.script.conftest import Codes

SCRIPT = """
import torch
from torch import nn
from torch.nn import functional as F

torch.manual_seed(0)
items = torch.randn(200, 8)
users = F.normalize(items @ torch.randn(8, 16) + 0.3 * torch.randn(200, 16), dim=1)  # of a tower that is ready
known, catalogue = items[:150], items[torch.randperm(200)]
tower, head = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16)), nn.Linear(16, 3)
optimizer = torch.optim.Adam([*tower.parameters(), *head.parameters()], lr=1e-3)
for epoch in range(4):
    for rows in torch.randperm(150).split(25):
        LOSS
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    tower.eval()
    with torch.no_grad():
        ranks = torch.cat([users @ F.normalize(tower(part), dim=1).T for part in catalogue.split(50)], dim=1)
    tower.train()
    print(epoch, float(loss), ranks.argmax(1)[:3].tolist())
"""
PAIRS = "loss = F.cross_entropy(10 * users[rows] @ F.normalize(tower(known[rows]), dim=1).T, torch.arange(25))"
CLASSES = "loss = F.cross_entropy(head(tower(known[rows])), known[rows, :3].argmax(1))"


@pytest.mark.parametrize("pairs", [True, False], ids=["one side", "whole samples"])
def test_a_catalogue(codes: Codes, pairs: bool) -> None:
    """What is scored is users beside items; a classifier is scored by its items, most of which it was trained on."""
    found = codes(SCRIPT.replace("LOSS", PAIRS if pairs else CLASSES))
    assert (("Sequential", "M1") in found) == (not pairs)


TWO = """
import torch
from torch import nn
from torch.nn import functional as F

torch.manual_seed(0)
pictures = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 16))
texts = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 16))
optimizer = torch.optim.AdamW([*pictures.parameters(), *texts.parameters()], lr=1e-2)
warm_up = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 20))
for step in range(120):
    said = torch.randn(32, 12)
    a, b = pictures(torch.cat([said, said, torch.randn(32, 40)], dim=1)), texts(said)
    together = torch.ones(32)
    loss = F.cosine_embedding_loss(a, b, together)
    OTHERS
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    warm_up.step()
"""
OTHERS = "loss = loss + F.cosine_embedding_loss(a, b.roll(1, 0), -together, margin=0.1)"


@pytest.mark.parametrize("others", [True, False])
def test_a_small_tower_beside_a_large_one(codes: Codes, others: bool) -> None:
    """The large one alone is the model; the loss compares what both give, and all pairs belong together."""
    found = codes(TWO.replace("OTHERS", OTHERS if others else ""))
    assert [code for _, code in found] == ([] if others else ["M2"])
