"""While every model sleeps, a watched process hears only the ends of steps; awake, it hears all of them again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sightline.attach.script.rest import Attention
from tests.forked import Forks

SCRIPT = """
import json, torch
from sightline.guard.evidence import StepSeen
from sightline.guard.watch import Watch

losses, offer = {}, Watch.offer
def listening(watch, seen):
    if isinstance(seen, StepSeen):
        losses[seen.step] = seen.loss
    return offer(watch, seen)
Watch.offer = listening

torch.manual_seed(0)
model, x = torch.nn.Linear(8, 4), torch.randn(64, 8)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
# the script's own guard, if it has one
plain, others = [], 0
for step in range(1, 601):
    if step == 500:  # a script that puts its own function around what is there
        backward = torch.autograd.backward
        def counted(*args, **kwargs):
            global others
            others += 1
            return backward(*args, **kwargs)
        torch.autograd.backward = counted
    loss = (model(x) - x[:, :4]).pow(2).mean()
    loss.backward()
    if step < 500 and not hasattr(torch.autograd.backward, "__wrapped__"):
        plain.append(step)
    optimizer.step()
    optimizer.zero_grad()
with open("heard.json", "w") as file:
    json.dump({"plain": plain, "losses": losses, "others": others}, file)
"""


OWN = "import sightline; guard = sightline.attach(model, optimizer, budget=0.2, on_finding=None)"


@pytest.mark.parametrize("own", ["", OWN], ids=["watched by the run", "watched by the script itself"])
def test_backward_passes_are_left_alone_while_all_sleep(tmp_path: Path, forks: Forks, own: str) -> None:
    (tmp_path / "train.py").write_text(SCRIPT.replace("# the script's own guard, if it has one", own))
    forks.run("sightline", "run", "--budget", "20", "--findings", "told.json", "train.py", cwd=tmp_path)
    heard = json.loads((tmp_path / "heard.json").read_text())
    told = json.loads((tmp_path / "told.json").read_text())
    assert not told["run"]["problems"] and not told["findings"]
    assert heard["plain"], "the guard never slept: nothing of this was tested"
    assert heard["others"] == 101
    losses = {int(step): loss for step, loss in heard["losses"].items()}
    assert all(loss is not None for loss in losses.values())
    assert max(losses) > heard["plain"][0], "it slept, and never heard a loss again"
    assert not set(losses) & set(heard["plain"])


def _step() -> None:
    parameter = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    parameter.grad = torch.ones(1)
    optimizer.step()


class _Ear:
    def __init__(self) -> None:
        self.open = True

    def listen(self) -> None:
        self.open = True

    def rest(self) -> None:
        self.open = False


def test_who_needs_steps_keeps_the_process_from_resting() -> None:
    steps: list[object] = []
    asleep, wanted = [False], [True]
    attention = Attention(lambda *args: steps.append(args[0]), lambda: asleep[0])
    attention.ears.append(ear := _Ear())
    attention.needs.append(lambda: wanted[0])
    try:
        first = attention.awake()
        asleep[0] = True
        first.remove()  # all asleep, but somebody waits for a step
        _step()
        assert len(steps) == 1 and ear.open and not attention.resting
        wanted[0] = False
        attention.awake().remove()
        _step()
        assert len(steps) == 1 and not ear.open and attention.resting
        attention.listen()
        _step()
        assert len(steps) == 2 and ear.open
    finally:
        attention.close()
    _step()
    assert len(steps) == 2
