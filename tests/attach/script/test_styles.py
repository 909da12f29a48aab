"""`sightline run` of loops that keep their models and optimizers in unusual ways: seen, or said not to be and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.forked import Forks

HEAD = """
import sys, torch
from torch import nn
torch.manual_seed(0)
clears = sys.argv[1] == "clean"
def batch():
    return torch.randn(32, 8), torch.randint(0, 3, (32,))
"""

TENSORS = """
weight, bias = torch.randn(8, 3).requires_grad_(), torch.zeros(3, requires_grad=True)
optimizer = torch.optim.SGD([weight, bias], lr=0.1)
for _ in range(16):
    if clears:
        optimizer.zero_grad()
    x, y = batch()
    loss = nn.functional.cross_entropy(x @ weight + bias, y)
    loss.backward()
    optimizer.step()
print(loss.item().hex())
"""

HELD = """
class Holder:  # no module
    def __init__(self):
        self.encoder, self.head = nn.Linear(8, 16), nn.Linear(16, 3)
        self.optimizers = [torch.optim.Adam(self.encoder.parameters()), torch.optim.SGD(self.head.parameters(), lr=0.1)]
    def fit(self):
        for _ in range(16):
            x, y = batch()
            loss = nn.functional.cross_entropy(self.head(torch.relu(self.encoder(x))), y)
            for optimizer in self.optimizers:
                if clears:
                    optimizer.zero_grad()
            loss.backward()
            for optimizer in self.optimizers:
                optimizer.step()
        print(loss.item().hex())
Holder().fit()
"""

EXECUTED = """
exec('''
model = nn.Linear(8, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(16):
    x, y = batch()
    if clears:
        optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
print(model.weight.sum().item().hex())
''')
"""

OWN_RATE = """
class Relative(torch.optim.Optimizer):  # keeps its rate to itself, as Adafactor does
    def __init__(self, params):
        super().__init__(params, {"lr": None})
    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(0.05 * p.square().mean().sqrt() * p.grad / (p.grad.norm() + 1e-8))
model = nn.Linear(8, 3)
optimizer = Relative(model.parameters())
for _ in range(16):
    x, y = batch()
    if clears:
        optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
print(model.weight.sum().item().hex())
"""

BY_HAND = """
model = nn.Linear(8, 3)
for _ in range(16):
    x, y = batch()
    if clears:
        model.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    with torch.no_grad():
        for p in model.parameters():
            p -= 0.1 * p.grad
print(model.weight.sum().item().hex())
"""

ASKED = """
model = nn.Linear(8, 3)
for _ in range(16):
    x, y = batch()
    nn.functional.cross_entropy(model(x.requires_grad_()), y).backward()
print(model.weight.grad.sum().item().hex())
"""


def _run(forks: Forks, tmp_path: Path, text: str, how: str) -> tuple[str, str, dict[str, Any]]:
    (tmp_path / "train.py").write_text(HEAD + text, encoding="utf-8")
    outputs = []
    for before in ((), ("sightline", "run", "--findings", "told.json")):
        done = forks.run(*before, "train.py", how, cwd=tmp_path)
        outputs.append(done.stdout)
    assert outputs[0] == outputs[1]
    return outputs[1], done.stderr, json.loads((tmp_path / "told.json").read_text())


@pytest.mark.parametrize("how", ["clean", "faulty"])
@pytest.mark.parametrize(
    "text",
    [TENSORS, HELD, EXECUTED, OWN_RATE, BY_HAND],
    ids=["plain tensors", "no module", "exec", "a rate of its own", "by hand"],
)
def test_it_is_watched(text: str, how: str, tmp_path: Path, forks: Forks) -> None:
    _, _, told = _run(forks, tmp_path, text, how)
    assert {finding["code"] for finding in told["findings"]} == (set() if how == "clean" else {"T2"})
    assert told["run"]["problems"] == [] and all(model["steps"] >= 12 for model in told["run"]["models"])


JUDGES = """
makers, judges = ([nn.Linear(4, 4), nn.Linear(4, 4)] for _ in range(2))
params = [[p for m in parts for p in m.parameters()] for parts in (makers, judges)]
one, other = (torch.optim.SGD(each, lr=0.01) for each in params)
for step in range(16):
    x = torch.randn(32, 4)
    made = makers[0](x) + makers[1](x)
    loss = torch.autograd.grad((judges[0](made) + judges[1](made)).square().mean(), made, retain_graph=True)[0]
    one.zero_grad()
    (made * loss.detach()).sum().backward()
    one.step()
    for judge in judges:
        (judge(made.detach()) - 1).square().mean().backward()
    if step % 2:
        other.step()
        other.zero_grad()
print(made.sum().item().hex())
"""


def test_passes_of_a_model_that_is_watched_a_step_later_are_not_anothers(tmp_path: Path, forks: Forks) -> None:
    """Neither is called as a whole, and the judges' optimizer steps first when the makers' has stepped twice."""
    _, _, report = _run(forks, tmp_path, JUDGES, "clean")
    assert report["findings"] == []


def test_a_loop_that_moves_nothing_is_said_not_to_be_watched(tmp_path: Path, forks: Forks) -> None:
    _, said, told = _run(forks, tmp_path, ASKED, "clean")
    assert "16 backward passes were seen, and nothing" in said
    assert told["findings"] == [] and all("along its gradients" in verdict["why"] for verdict in told["not_run"])
