"""Scripts that keep the best model so far: the very one that trains on, or a copy."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from sightline.attach.script.checkpoints.aliased import Aliased, places
from sightline.attach.script.watch import Models
from sightline.guard.check import Finding

pytestmark = pytest.mark.slow  # many settings of rules that quick tests prove in one

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
    script.aliased.loaded(script.model, {name: v + 1 for name, v in script.model.state_dict().items()})
    assert script.messages() == []


REFERENCES = ["[p.data for p in net.parameters()]", "{k: v.numpy() for k, v in net.state_dict().items()}"]


@pytest.mark.parametrize("value", [*REFERENCES, "list(net.parameters())", "dict(net.named_parameters())"])
@pytest.mark.parametrize("source", [PLAIN, STOPPER])
def test_the_weights_of_the_best_are_kept_by_reference(source: str, value: str, script: Script) -> None:
    script.run(_keeping(source, value))
    (message,) = script.messages()
    assert "4 of its tensors" in message and "since step 19" in message


@pytest.mark.parametrize(
    "value", ["copy.deepcopy(net.state_dict())", "[p.data.clone() for p in net.parameters()]", "[score, score]"]
)
def test_the_weights_of_the_best_are_copied(value: str, script: Script) -> None:
    script.run(_keeping(PLAIN, value))
    assert script.messages() == []


def test_references_that_are_saved_at_once(script: Script) -> None:
    saved = _keeping(PLAIN, "net.state_dict()").replace(
        "    return", "        if best == score: save(kept)\n    return"
    )
    script.run(saved.replace("def fit", "save = print\ndef fit"))
    assert script.messages() == []


def test_references_are_given_back(script: Script) -> None:
    """Which changes nothing; other values would."""
    script.run(_keeping(PLAIN, REFERENCES[0]))
    script.aliased.loaded(script.model, dict(script.model.named_parameters()))
    assert len(script.messages()) == 1


def _keeping(source: str, value: str) -> str:
    of_model = source.replace("self.best_model = model", f"self.best_model = {value.replace('net', 'model')}")
    return of_model.replace("kept = score, net", f"kept = score, {value}")


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
        ("kept = score, net", "kept = score, 1.0"),
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
