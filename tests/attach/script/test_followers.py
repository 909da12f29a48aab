"""`sightline run` on resumes with an average of the weights beside them, and on files that came by another way."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import io
import os

import torch
from torch import nn


KINDS = {}


def kind(name):
    made = KINDS.setdefault(name, type(name, (nn.Sequential,), {}))
    return made(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))


def through_memory(name, state):
    kept = io.BytesIO()
    torch.save(state, kept)
    with open(name + ".tmp", "wb") as file:
        file.write(kept.getvalue())
    os.replace(name + ".tmp", name + ".pt")
    return torch.load(name + ".pt")


def twice(name, moments=True, mean=True, moving=True, fresh=False):
    data = torch.randn(96, 6, generator=torch.Generator().manual_seed(1)).split(16)
    state = None
    for _ in range(2):
        model, slow = kind(name), kind(name)
        opt = torch.optim.AdamW(model.parameters(), lr=3e-3)
        slow.load_state_dict(model.state_dict())
        slow.requires_grad_(False)
        if state is not None:
            model.load_state_dict(state["model"])
            if moments:
                opt.load_state_dict(state["opt"])
            if mean:
                slow.load_state_dict(state["mean"])
        for step in range(12):
            x = torch.randn(16, 6) if fresh else data[step % 6]
            opt.zero_grad()
            (model(x) - slow(x) - x[:, :3].prod(1, keepdim=True)).square().mean().backward()
            opt.step()
            for one, other in zip(slow.parameters(), model.parameters()):
                if moving:
                    one.lerp_(other.detach(), 0.05)
        state = {"model": model.state_dict(), "opt": opt.state_dict(), "step": 12, "mean": slow.state_dict()}
        state = through_memory(name, state)


torch.manual_seed(0)
twice("Whole")
twice("Drawn", fresh=True)
twice("NoMoments", moments=False)
twice("NoMean", mean=False)
twice("NoMeanDrawn", mean=False, fresh=True)
twice("Standing", mean=False, moving=False)
"""


@pytest.mark.slow
def test_averages_go_on_where_they_were(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "sightline", "run", "--findings", "told.json", "train.py"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=300)
    told = json.loads((tmp_path / "told.json").read_text())
    assert not told["run"]["problems"]
    found = {(one["model"].split()[0], one["code"]) for one in told["findings"]}
    assert found == {("NoMoments", "K2"), ("NoMean", "K2"), ("NoMeanDrawn", "K2")}
