"""`sightline run` on a script whose second stage makes an optimizer anew: one model, one watch."""

from __future__ import annotations

import json
from pathlib import Path

from tests.forked import Forks

SCRIPT = """
import torch
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2))
rows = [torch.randn(16, 6) for _ in range(8)]
for rate in (1e-2, 1e-3):
    opt = torch.optim.AdamW(net.parameters(), lr=rate)
    for x in rows * 3:
        opt.zero_grad()
        nn.functional.cross_entropy(net(x), (x[:, 0] > 0).long()).backward()
        opt.step()
"""


def test_a_second_stage_is_heard_by_the_same_watch(tmp_path: Path, forks: Forks) -> None:
    """Two watches of one model would take each other's probes for evaluations on training rows."""
    (tmp_path / "train.py").write_text(SCRIPT)
    forks.run("sightline", "run", "--findings", "told.json", "train.py", cwd=tmp_path)
    told = json.loads((tmp_path / "told.json").read_text())
    assert [(one["name"], one["steps"]) for one in told["run"]["models"]] == [("Sequential", 48)]
    assert not told["findings"]


NEW_HEAD = SCRIPT.replace("    opt = torch.optim", "    {}\n    opt = torch.optim").replace(
    "net.parameters(), lr=rate)", "net.parameters(), lr=rate)\n    {}"
)


def told_of(forks: Forks, tmp_path: Path, source: str) -> list[str]:
    (tmp_path / "train.py").write_text(source)
    forks.run("sightline", "run", "--findings", "told.json", "train.py", cwd=tmp_path)
    return [f"{one['code']} {one['severity']}" for one in json.loads((tmp_path / "told.json").read_text())["findings"]]


def test_a_head_that_is_new_in_the_second_stage(tmp_path: Path, forks: Forks) -> None:
    """The first stage's watch knows the old head. The fault: its optimizer was made for the old one too.

    Then the new head is met while the watch goes on, which tells it once.
    """
    head = "net[2] = nn.Linear(16, 3)"
    assert told_of(forks, tmp_path, NEW_HEAD.format(head, "pass")) == []
    assert told_of(forks, tmp_path, NEW_HEAD.format("pass", head)) == ["T1 error"]


SLICES = """
import torch
from torch import nn

torch.manual_seed(0)
rows = torch.randn(64, 6)
answers = (rows[:, 0] > 0).float()

for part in range({parts}):
    net = nn.Sequential(nn.Linear(6, 96), nn.Identity(), nn.Linear(96, 1))
    rates = [{{"params": net[0].parameters(), "lr": 1e-2}}, {{"params": net[2].parameters(), "lr": 1e-5}}]
    opt = torch.optim.Adam(rates)
    if part:
        state = torch.load("last.pt")
        net.load_state_dict(state["net"])
        opt.load_state_dict(state["opt"])
    for _ in range(60):
        x = {inputs}
        opt.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(net(x).squeeze(1), answers).backward()
        opt.step()
    torch.save({{"net": net.state_dict(), "opt": opt.state_dict()}}, "last.pt")
"""


def test_a_model_that_goes_on_knows_something_at_its_first_step(tmp_path: Path, forks: Forks) -> None:
    """Its output layer has hardly moved, and looks as it was drawn. An untrained one that knows as much was told."""
    assert told_of(forks, tmp_path, SLICES.format(parts=2, inputs="rows")) == []
    sure = "torch.linspace(0, 60, 64)[:, None] * (2 * answers - 1)[:, None]"
    answer_in_the_inputs = f"{sure} * (net[2].weight @ net[0].weight).detach()"
    assert told_of(forks, tmp_path, SLICES.format(parts=1, inputs=answer_in_the_inputs)) == ["T7 warning"]
