"""Averages of 16-bit weights: in 16 bits they stand still; in 32 bits, with a short memory or as a copy they do not."""

from __future__ import annotations

import pytest

from tests.attach.script.conftest import Codes

SCRIPT = """
import copy, sys, torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
torch.manual_seed(0)
torch.set_num_threads(1)
kind = "KIND"
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(24, 48), nn.Linear(48, 4)
    def forward(self, x):
        return self.head(self.body(x).relu())
net = Net().bfloat16()
optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
wide = torch.float32 if kind in ("float32", "rounded") else torch.bfloat16
decay = 0.5 if kind == "short" else 0.999
if kind == "averaged":
    ema = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(decay))
elif kind in ("module", "anchor", "target"):
    ema = copy.deepcopy(net).requires_grad_(False)
else:
    ema = {name: value.detach().to(wide).clone() for name, value in net.named_parameters()}
used = {name: value.detach().clone() for name, value in net.named_parameters()} if kind == "rounded" else {}
def follow(step):
    if kind == "averaged":
        ema.update_parameters(net)
    elif kind == "anchor":
        return
    elif kind == "target":
        if step % 10 == 0:
            ema.load_state_dict(net.state_dict())
    elif kind == "module":
        for mean, value in zip(ema.parameters(), net.parameters()):
            mean.mul_(decay).add_(value.detach(), alpha=1 - decay)
    elif kind == "anew":
        for name, value in net.named_parameters():
            ema[name] = decay * ema[name] + (1 - decay) * value.detach()
    else:
        for name, value in net.named_parameters():
            ema[name].lerp_(value.detach().to(wide), 1 - decay)
            if used:
                used[name].copy_(ema[name])
goal = torch.randn(24, 4)
for step in range(80):
    x = torch.randn(32, 24)
    y = (x @ goal).argmax(-1)
    loss = nn.functional.cross_entropy(net(x.bfloat16()).float(), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    follow(step)
"""


@pytest.mark.parametrize("kind", ["module", "kept", "anew", "averaged"])
def test_that_stand_still(codes: Codes, kind: str) -> None:
    assert codes(SCRIPT.replace("KIND", kind)) == {("Net", "P4")}


@pytest.mark.parametrize("kind", ["float32", "short", "rounded", "anchor", "target"])
def test_that_follow_or_are_none(codes: Codes, kind: str) -> None:
    assert codes(SCRIPT.replace("KIND", kind)) == set()
