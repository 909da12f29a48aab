"""Gradients that hooks of the host's own clamp, under a loss scale."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sightline


@pytest.mark.parametrize("where", ["in hooks", "in hooks, times the scale", "after unscaling"])
def test_a_clamp_in_a_hook_sees_scaled_gradients(where: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14)
    limit = 0.05 * (scaler.get_scale() if "times" in where else 1.0)
    if "hooks" in where:
        for parameter in model.parameters():
            parameter.register_hook(lambda grad: grad.clamp(-limit, limit))
    with sightline.attach(model, optimizer, on_finding=None, budget=1.0) as guard:
        for _ in range(8):
            optimizer.zero_grad()
            scaler.scale((model(torch.randn(16, 16)) - 3).square().mean()).backward()
            scaler.unscale_(optimizer)
            if where == "after unscaling":
                nn.utils.clip_grad_value_(model.parameters(), limit)
            scaler.step(optimizer)
            scaler.update()
    assert ("P3" in [found.code for found in guard.findings]) == (where == "in hooks")
