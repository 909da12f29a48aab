"""Scripts whose model is several variables under one optimizer: what is given to and made by them is seen."""

from __future__ import annotations

import pytest

from tests.attach.script.conftest import Codes

SCRIPT = """
import torch
from torch import nn
from torch.nn import functional as F
FAULTY = {faulty}
torch.manual_seed(0)
encoder = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Dropout(0.3))
neck, head = nn.Linear(32, 16), nn.Linear(16, 6)
optimizer = torch.optim.Adam([p for part in (encoder, neck, head) for p in part.parameters()], lr=3e-3)
goal = torch.randn(12, 6)
rows = torch.randn(640, 12)
kinds = (rows @ goal).argmax(1)
train, test = range(0, 512), slice(512, 640)
for epoch in range(4):
    for part in (encoder, neck, head):
        part.train()
    for start in range(0, 512, 32):
        x, y = rows[start:start + 32], kinds[start:start + 32]
        logits = head(F.relu(neck(encoder(x))))
        loss = F.cross_entropy(logits.softmax(-1) if FAULTY else logits, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for part in (encoder, neck, head):
        part.train(FAULTY)
    with torch.no_grad():
        x = torch.cat([rows[test], rows[:64]]) if FAULTY else rows[test]
        y = torch.cat([kinds[test], kinds[:64]]) if FAULTY else kinds[test]
        print(epoch, (head(F.relu(neck(encoder(x)))).argmax(1) == y).float().mean().item())
"""


@pytest.mark.parametrize("faulty", [True, False])
def test_an_encoder_a_neck_and_a_head(codes: Codes, faulty: bool) -> None:
    found = codes(SCRIPT.format(faulty=faulty))
    assert {code for _, code in found} == ({"T3", "T4"} if faulty else set())
