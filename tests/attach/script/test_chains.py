"""Vision-language models in variables of their own: towers are found by what is handed on to whom."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.forked import Forks

SCRIPT = """
import torch
from torch import nn
from torch.nn import functional as F
torch.manual_seed(0)

class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.core, self.out = nn.Embedding(12, 24), nn.GRU(24, 48, batch_first=True), nn.Linear(48, 12)
    def forward(self, embeds):
        return self.out(self.core(embeds)[0])

eye = nn.Sequential(nn.Conv2d(3, 16, 4, 4), nn.ReLU(), nn.Flatten(2))
bridge = nn.Linear(16, 24)
reader = Reader()
eye.requires_grad_(False)
if "{case}" == "stage one":
    reader.requires_grad_(False)
if "{case}" == "unnamed":
    with torch.no_grad():  # as from a file
        for p in [*eye.parameters(), *reader.parameters()]:
            p *= 1.5
moved = {{"forgotten": [reader], "sound": [bridge, reader], "stage one": [bridge], "unnamed": [bridge],
         "detached": [bridge, reader]}}["{case}"]
optimizer = torch.optim.Adam([p for part in moved for p in part.parameters()], lr=2e-3)
seeds = torch.randn(6, 3, 8, 8)
for step in range(60):
    kinds = torch.randint(0, 6, (16,))
    with torch.no_grad():
        seen = eye(seeds[kinds] + 0.1 * torch.randn(16, 3, 8, 8)).transpose(1, 2)
    told = torch.stack([torch.full((16,), 7), kinds], 1)
    prefix = bridge(seen).detach() if "{case}" == "detached" else bridge(seen)
    logits = reader(torch.cat([prefix, reader.words(told[:, :1])], 1))[:, -1]
    for part in (bridge, reader):
        part.zero_grad()
    F.cross_entropy(logits, kinds).backward()
    optimizer.step()
"""


def told(case: str, tmp_path: Path, forks: Forks) -> tuple[list[str], dict[str, Any], set[str]]:
    """Codes, the model that was watched, and what could not be checked."""
    (tmp_path / "train.py").write_text(SCRIPT.format(case=case))
    forks.run("sightline", "run", "--findings", "told.json", "train.py", cwd=tmp_path)
    found = json.loads((tmp_path / "told.json").read_text())
    assert not found["run"]["problems"]
    (model,) = found["run"]["models"]
    return [one["code"] for one in found["findings"]], model, {one["code"] for one in found["not_run"]}


def test_a_projector_that_was_forgotten(tmp_path: Path, forks: Forks) -> None:
    codes, model, _ = told("forgotten", tmp_path, forks)
    assert codes == ["T1"] and model["name"] == "Sequential + Linear + Reader"


@pytest.mark.slow
def test_a_projector_whose_output_is_detached(tmp_path: Path, forks: Forks) -> None:
    assert told("detached", tmp_path, forks)[0] == ["T1"]


@pytest.mark.parametrize("case", ["sound", "stage one"])
def test_frozen_towers_are_parts_of_the_model(case: str, tmp_path: Path, forks: Forks) -> None:
    codes, model, blind = told(case, tmp_path, forks)
    assert codes == [] and model["name"] == "Sequential + Linear + Reader"
    assert not {"X1", "X2"} & blind


def test_towers_that_nobody_froze_and_nobody_trains(tmp_path: Path, forks: Forks) -> None:
    """Nothing says whether they should learn: they are left out."""
    codes, model, _ = told("unnamed", tmp_path, forks)
    assert codes == [] and model["name"] == "Linear"
