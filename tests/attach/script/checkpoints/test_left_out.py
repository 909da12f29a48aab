"""A run that begins with a checkpoint's weights and a new head tunes it; one whose moments came back goes on."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sightline.attach.script.checkpoints.contents import prints
from sightline.attach.script.checkpoints.left_out import is_tuning


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-2)


def test_a_new_head_is_no_resume() -> None:
    one = net()
    optimizer = adam(one)
    one(torch.randn(8, 4)).mean().backward()
    optimizer.step()
    content: dict[str, Any] = {"model": one.state_dict(), "opt": optimizer.state_dict(), "epoch": 1}
    whole, body, back = net(), net(), net()
    whole.load_state_dict(content["model"])
    for other in (body, back):
        other.load_state_dict({n: t for n, t in content["model"].items() if n.startswith("0.")}, strict=False)
    went_on = adam(back)
    went_on.load_state_dict(content["opt"])
    assert [is_tuning(each, prints(content)) for each in (adam(whole), adam(body), went_on)] == [False, True, False]
