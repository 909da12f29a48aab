"""`sightline run` on a script whose second stage makes an optimizer anew: one model, one watch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

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


def test_a_second_stage_is_heard_by_the_same_watch(tmp_path: Path) -> None:
    """Two watches of one model would take each other's probes for evaluations on training rows."""
    (tmp_path / "train.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "sightline", "run", "--findings", "told.json", "train.py"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    told = json.loads((tmp_path / "told.json").read_text())
    assert [(one["name"], one["steps"]) for one in told["run"]["models"]] == [("Sequential", 48)]
    assert not told["findings"]


NEW_HEAD = SCRIPT.replace("    opt = torch.optim", "    {}\n    opt = torch.optim").replace(
    "net.parameters(), lr=rate)", "net.parameters(), lr=rate)\n    {}"
)


def told_of(tmp_path: Path, source: str) -> list[str]:
    (tmp_path / "train.py").write_text(source)
    command = [sys.executable, "-m", "sightline", "run", "--findings", "told.json", "train.py"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    return [f"{one['code']} {one['severity']}" for one in json.loads((tmp_path / "told.json").read_text())["findings"]]


def test_a_head_that_is_new_in_the_second_stage(tmp_path: Path) -> None:
    """The first stage's watch knows the old head. The fault: its optimizer was made for the old one too.

    Then the new head is met while the watch goes on, which tells it once.
    """
    head = "net[2] = nn.Linear(16, 3)"
    assert told_of(tmp_path, NEW_HEAD.format(head, "pass")) == []
    assert told_of(tmp_path, NEW_HEAD.format("pass", head)) == ["T1 error"]
