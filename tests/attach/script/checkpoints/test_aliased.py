"""Scripts that keep the best model so far: the very one that trains on, or a copy."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from sightline.attach.script.checkpoints.aliased import Aliased, places
from sightline.attach.script.watch import Models
from sightline.guard.check import Finding

PLAIN = """
import copy
def fit(net, scores, step, opt):
    best, kept = 0.0, None
    for score in scores:
        step(net, opt)
        if score > best:
            best, kept = score, net
    return kept
"""
STOPPER = """
class Stopper:
    def __init__(self):
        self.best_loss, self.best_model = None, None
    def __call__(self, loss, model):
        if self.best_loss is None or loss < self.best_loss - 0.01:
            self.best_loss = loss
            self.best_model = model
def fit(net, scores, step, opt):
    stopper = Stopper()
    for score in scores:
        step(net, opt)
        stopper(1 - score, net)
    return stopper.best_model
"""
WORSE = (0.5, 0.7, 0.6, 0.6, 0.6, 0.6)


class Script:
    def __init__(self, path: Path) -> None:
        torch.manual_seed(0)
        self.found, self.problems, self.path = list[Finding](), list[str](), path
        self.models = Models(1.0, self.found.append, self.problems.append)
        self.aliased = Aliased(self.models, self.problems.append)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
        self.opt = torch.optim.SGD(self.model.parameters(), lr=0.01)
        self.models.attach(self.model, [self.opt], blind=False)

    @staticmethod
    def step(net: nn.Module, opt: torch.optim.Optimizer) -> None:
        for _ in range(8):
            opt.zero_grad()
            net(torch.randn(4, 4)).square().mean().backward()
            opt.step()

    def run(self, source: str, scores: tuple[float, ...] = WORSE) -> None:
        self.path.write_text(source)
        names: dict[str, object] = {"__name__": "__main__"}
        exec(compile(source, str(self.path), "exec"), names)
        names["fit"](self.model, scores, self.step, self.opt)  # type: ignore[operator]

    def messages(self) -> list[str]:
        self.models.close_all(whole=True)
        assert not self.problems
        return [one.message for one in self.found if one.code == "K1"]


@pytest.fixture
def script(tmp_path: Path) -> Script:
    return Script(tmp_path / "train.py")


@pytest.mark.parametrize(("source", "name"), [(PLAIN, "'kept'"), (STOPPER, "'self.best_model'")])
def test_the_best_trains_on(source: str, name: str, script: Script) -> None:
    script.run(source)
    (message,) = script.messages()
    assert name in message and "4 of its tensors" in message and "since step 19" in message


def test_scores_that_are_tensors(script: Script) -> None:
    script.run(
        PLAIN.replace("for score in scores:", "for score in map(torch.tensor, scores):").replace("copy", "torch")
    )
    assert len(script.messages()) == 1


@pytest.mark.parametrize("source", [PLAIN, STOPPER])
def test_the_last_was_the_best(source: str, script: Script) -> None:
    script.run(source, (0.5, 0.6, 0.7, 0.8, 0.75))
    assert script.messages() == []


def test_it_is_given_its_values_back(script: Script) -> None:
    script.run(PLAIN)
    script.aliased.loaded(script.model)
    assert script.messages() == []


def test_what_is_kept_is_one_of_several(script: Script) -> None:
    """A search: each model has its turn, and the best one is trained on at the end, by an optimizer of its own."""
    search = "for net, opt in tries:\n        fresh = opt\n        step(net, opt)\n        score = next(scores)"
    source = PLAIN.replace("for score in scores:\n        step(net, opt)", search).replace("return kept", "again(kept)")
    source = source.replace("net, scores, step, opt", "tries, scores, step, again")
    script.path.write_text(source)
    names: dict[str, object] = {"__name__": "__main__"}
    exec(compile(source, str(script.path), "exec"), names)
    other = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    second = torch.optim.SGD(other.parameters(), lr=0.01)
    script.models.attach(other, [second], blind=False)

    def again(net: nn.Module) -> None:
        opt = torch.optim.SGD(net.parameters(), lr=0.001)
        for _ in range(8):
            script.step(net, opt)

    tries = [(script.model, script.opt), (other, second)]
    names["fit"](tries, iter((0.4, 0.9)), script.step, again)  # type: ignore[operator]
    assert script.messages() == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("kept = score, net", "kept = score, copy.deepcopy(net)"),
        ("kept = score, net", "kept = score, net.state_dict()"),
        ("best, kept = score, net", "best, kept = score, net; save(net.state_dict())"),
        ("if score > best", "if score == best"),
        ("best, kept = score, net", "other, kept = score, net"),
        ("return kept", "return best"),
        ("return kept", "if kept is None: return best"),
    ],
)
def test_code_that_keeps_something_else(old: str, new: str) -> None:
    assert len(places(PLAIN)) == 1 and old in PLAIN
    assert places(PLAIN.replace(old, new)) == []
