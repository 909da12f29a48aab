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
