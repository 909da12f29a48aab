"""An average of weights that a loop binds to a name, and writes to no tensor."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attach.script.conftest import Codes

SCRIPT = """
import copy, torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(64, 8)
y = x[:, :3].argmax(1)
net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
slow = copy.deepcopy(net)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

@torch.no_grad()
def follow(decay=0.9):
    BODY

for step in range(16):
    with torch.no_grad():
        steady = slow(x).softmax(1)
    loss = nn.functional.cross_entropy(net(x), y) + (net(x).softmax(1) - steady).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    follow()
"""
LOOP = "for a, b in zip(slow.parameters(), net.parameters()):\n        "
LOST = [
    LOOP + "a = decay * a + (1 - decay) * b",
    LOOP + "new = torch.lerp(b.data, a.data, decay); a = new",
    "own, new = slow.state_dict(), net.state_dict()\n"
    "    for name in own: own[name] = own[name] * decay + new[name] * (1 - decay)",
]
SOUND = [
    LOOP + "a.mul_(decay).add_(b, alpha=1 - decay)",
    LOOP + "new = decay * a + (1 - decay) * b; a.copy_(new)",
    LOOP + "a.data = decay * a.data + (1 - decay) * b.data",
    "slow.load_state_dict({n: decay * v + (1 - decay) * net.state_dict()[n] for n, v in slow.state_dict().items()})",
    "global kept\n    kept = [decay * a + (1 - decay) * b for a, b in zip(slow.parameters(), net.parameters())]",
    "global far\n    far = sum((a - b).square().sum().item() for a, b in zip(slow.parameters(), net.parameters()))",
    LOOP + "nn.functional.mse_loss(a, b)",
    "pass",
]


def unmoved(codes: Codes, body: str) -> bool:
    """Whether T1 is told of this way to follow."""
    return any(code == "T1" for _, code in codes(SCRIPT.replace("BODY", body)))


def test_a_name_bound_anew(codes: Codes) -> None:
    assert unmoved(codes, LOST[0])
    assert not unmoved(codes, SOUND[1])


MANY = """
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

heard = []
register_optimizer_step_post_hook(lambda *_: heard.append(1))
for turn in range(6):
    net, still = torch.nn.Linear(4, 2), torch.nn.Linear(4, 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for step in range(10):
        optimizer.zero_grad()
        net(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
assert len(heard) == 60
open("done", "w").close()
"""


def test_a_listener_of_the_script_s_own(codes: Codes, tmp_path: Path) -> None:
    """It hears every step, also of the one after which we look no more."""
    codes(MANY)
    assert (tmp_path / "done").exists()


@pytest.mark.slow
@pytest.mark.parametrize("body", LOST[1:])
def test_other_ways_to_lose_it(codes: Codes, body: str) -> None:
    assert unmoved(codes, body)


@pytest.mark.slow
@pytest.mark.parametrize("body", [SOUND[0], *SOUND[2:]])
def test_written_or_kept_or_only_looked_at(codes: Codes, body: str) -> None:
    assert not unmoved(codes, body)
