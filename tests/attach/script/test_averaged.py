"""A first loss far below a guess: of nets that go on from an average of others, and of one that is given the answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.forked import Forks

pytestmark = pytest.mark.slow  # many settings of rules that quick tests prove in one

SCRIPT = """
import copy, sys, torch
from torch import nn
torch.manual_seed(0)
torch.set_num_threads(1)
leaks = sys.argv[1] == "leaks"
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(40, 6)
    def forward(self, x, known):
        return self.head(x) + known
centres = 3 * torch.randn(6, 40)
y = torch.randint(0, 6, (400,))
x = centres[y] + torch.randn(400, 40)
known = leaks * 8 * nn.functional.one_hot(y, 6).float()
def grown(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.002)
    for rows in torch.randperm(400).split(20):
        loss = nn.functional.cross_entropy(model(x[rows], known[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.state_dict()
model = Net()
for turn in range(4):
    states = [grown(copy.deepcopy(model)) for _ in range(2)]
    model.load_state_dict({name: (states[0][name] + states[1][name]) / 2 for name in states[0]})
"""


@pytest.mark.parametrize(("how", "codes"), [("averages", set()), ("leaks", {"T7"})])
def test_what_goes_on_from_an_average_is_not_untrained(how: str, codes: set[str], tmp_path: Path, forks: Forks) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    done = forks.run("sightline", "run", "--findings", "told.json", "train.py", how, cwd=tmp_path)
    told = json.loads((tmp_path / "told.json").read_text())
    assert {one["code"] for one in told["findings"] if one["severity"] != "note"} == codes, done.stderr
