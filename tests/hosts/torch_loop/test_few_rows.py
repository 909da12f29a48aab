"""M1 where a run's data are few different rows, drawn again and again."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sightline


@pytest.mark.parametrize("different", [25, 1000], ids=["few", "many"])
def test_rows_drawn_from_a_few(different: int) -> None:
    """All that there is comes into both: of 25 pictures by chance, of a thousand because rows were left in both."""
    torch.manual_seed(0)
    pool = torch.randn(different, 16)
    model = nn.Linear(16, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    train = pool[torch.randint(0, different, (60,))]
    held_out = pool[torch.randint(0, different, (100,))]
    if different > 25:
        held_out[:60] = train
    with sightline.attach(model, optimizer, on_finding=None) as guard:
        for rows in train.split(12):
            optimizer.zero_grad()
            model(rows).square().mean().backward()
            optimizer.step()
            with guard.evaluating(), torch.no_grad():
                model.eval()
                model(held_out)
                model.train()
    found = {finding.check for finding in guard.findings}
    assert ("train-test-leakage" in found) == (different > 25)
