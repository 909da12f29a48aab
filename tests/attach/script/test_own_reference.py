"""`sightline run` on losses that compare a model with itself, and on losses that only look like it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.forked import Forks

SCRIPT = """
import copy
import torch
from torch import nn
from torch.nn import functional as F


def kind(name, width=16, out=11):
    return type(name, (nn.Sequential,), {})(nn.Embedding(11, width), nn.Tanh(), nn.Linear(width, out))


def log_p(model, ids):
    return model(ids[:, :-1]).float().log_softmax(-1).gather(2, ids[:, 1:, None]).sum((1, 2))


def fit(policy, loss_of, steps=12, rate=1e-2, kind=torch.optim.Adam, rows=8):
    opt = kind([p for p in policy.parameters() if p.requires_grad], lr=rate)
    for step in range(steps):
        ids = torch.randint(11, (rows, 6))
        opt.zero_grad()
        loss_of(policy, ids, step).backward()
        opt.step()


def margins(policy, reference, ids):
    own = log_p(policy, ids)
    with torch.no_grad():
        base = log_p(reference, ids)
    chosen, rejected = (own - base).chunk(2)
    return chosen - rejected


def ipo(reference):
    return lambda policy, ids, step: (margins(policy, reference or policy, ids) - 5).square().mean()


def hinge(policy, ids, step):
    return torch.relu(1 - 0.1 * margins(policy, policy, ids)).mean()


def kto(policy, ids, step):
    own = log_p(policy, ids)
    with torch.no_grad():
        base = log_p(policy, ids)
    chosen, rejected = (own - base).chunk(2)
    return (1 - torch.cat([chosen, -rejected]).sigmoid()).mean()


def grpo(policy, ids, step):
    with torch.no_grad():
        old = log_p(policy, ids)
    scores = (ids == 3).float().sum(1)
    gains = (scores - scores.mean()) / (scores.std() + 1e-4)
    return -((log_p(policy, ids) - old).exp() * gains).mean()


def imitation(policy, ids, step):  # the ratio of a policy and itself, of samples that are all good
    with torch.no_grad():
        old = log_p(policy, ids)
    return -(log_p(policy, ids) - old).exp().mean()


def judged(policy, ids, step):  # a head of zeros that hardly moves at first, and its accuracy on the rows it learns
    loss = F.cross_entropy(policy(ids).flatten(0, 1), (ids % 3).flatten())
    with torch.no_grad():
        right = (policy(ids).argmax(-1) == ids % 3).float().mean()
    return loss


def coarse(policy, ids, step):  # a loss of eight bits of mantissa, and an accuracy
    loss = F.cross_entropy(policy(ids).flatten(0, 1), ids.roll(1, 1).flatten())
    with torch.no_grad():
        right = (policy(ids).argmax(-1) == ids).float().mean()
    return loss


class Adapted(nn.Module):  # the adapter is off in the reference's passes
    def __init__(self):
        super().__init__()
        self.base = kind("Base").requires_grad_(False)
        self.a, self.b = nn.Linear(11, 2, bias=False), nn.Linear(2, 11, bias=False)
        nn.init.zeros_(self.b.weight)
        self.on = True

    def forward(self, ids):
        out = self.base(ids)
        return out + self.b(self.a(out)) if self.on else out


def dpo_off(policy, ids, step):
    own = log_p(policy, ids)
    policy.on = False
    with torch.no_grad():
        base = log_p(policy, ids)
    policy.on = True
    chosen, rejected = (own - base).chunk(2)
    return -F.logsigmoid(0.1 * (chosen - rejected)).mean()


torch.manual_seed(0)
fit(kind("Squared"), ipo(None))
fit(kind("Hinged"), hinge)
fit(kind("Kahneman"), kto)
one = kind("Copied")
fit(one, ipo(copy.deepcopy(one).requires_grad_(False)))
fit(kind("Grouped"), grpo)
fit(kind("Imitates"), imitation)
one = kind("Headed", out=3)
nn.init.zeros_(one[2].weight), nn.init.zeros_(one[2].bias)
fit(one, judged, rate=1e-9)
fit(kind("Coarse").to(torch.bfloat16), coarse, rate=1e-3, rows=256)
fit(Adapted(), dpo_off, rate=1e-9)
"""


@pytest.mark.slow
def test_a_policy_that_is_its_own_reference(tmp_path: Path, forks: Forks) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    forks.run("sightline", "run", "--findings", "told.json", "train.py", cwd=tmp_path)
    told = json.loads((tmp_path / "told.json").read_text())
    found = {(one["model"].split()[0], one["code"]) for one in told["findings"] if one["code"] == "L9"}
    assert found == {(name, "L9") for name in ("Squared", "Hinged", "Kahneman")}
    assert not told["run"]["problems"]
