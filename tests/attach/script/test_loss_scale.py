"""A loss that went through a gradient scaler, and an optimizer that steps without it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sightline.attach.script.loss.roots import Losses
from sightline.attach.script.watch import Models


def codes(way: str, steps: int = 12) -> set[str]:
    torch.manual_seed(0)
    found: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.autograd, "backward", torch.autograd.backward)
        patch.setattr(torch.amp.GradScaler, "scale", torch.amp.GradScaler.scale)
        models = Models(1.0, lambda finding: found.append(finding.code), pytest.fail)
        Losses(models, pytest.fail).install()
        model, scaler = nn.Linear(6, 3), torch.amp.GradScaler("cpu", init_scale=1024.0)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        models.attach(model, [optimizer], blind=False)
        for _ in range(steps):
            x = torch.randn(16, 6)
            loss = nn.functional.mse_loss(model(x), 0.1 * x[:, :3])
            optimizer.zero_grad()
            (loss if way == "plain" else scaler.scale(loss)).backward()
            if way == "unscaled by hand":
                for p in model.parameters():
                    assert p.grad is not None
                    p.grad /= scaler.get_scale()
            if way == "unscaled":
                scaler.unscale_(optimizer)
            if way in ("left on and clipped", "unscaled"):
                nn.utils.clip_grad_norm_(model.parameters(), 8.0)
            if way == "stepped":
                scaler.step(optimizer)
                scaler.update()
            else:
                optimizer.step()
                if way == "unscaled":
                    scaler.update()
        models.close_all(whole=True)
    return set(found)


@pytest.mark.parametrize("way", ["left on", "left on and clipped"])
def test_nobody_unscales(way: str) -> None:
    assert codes(way) == {"P3"}


@pytest.mark.parametrize("way", ["plain", "stepped", "unscaled", "unscaled by hand"])
def test_somebody_does(way: str) -> None:
    assert codes(way) == set()
