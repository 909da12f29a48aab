"""Models that are read back part by part: with one forgotten, and those of which nothing is."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sightline.attach.hook import Hook
from sightline.attach.script.checkpoints.in_parts import InParts
from sightline.attach.script.watch import Models
from sightline.guard.check import Finding

pytestmark = pytest.mark.usefixtures("origins")


class Tagger(nn.Module):
    def __init__(self, *, tied: bool = False) -> None:
        super().__init__()
        self.encoder, self.neck, self.head = nn.Sequential(nn.Linear(4, 8), nn.Tanh()), nn.Linear(8, 8), nn.Linear(8, 4)
        if tied:
            self.head = nn.Linear(8, 8)
            self.head.weight = self.neck.weight
        self.features = False

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        inner = self.neck(self.encoder(x))
        return (inner, self.head(inner)) if self.features else self.head(inner)


def train(model: nn.Module, opt: torch.optim.Optimizer) -> None:
    for _ in range(2):
        opt.zero_grad()
        model(torch.randn(4, 4)).square().mean().backward()
        opt.step()


class Script:
    """Trains one and keeps its parts."""

    def __init__(self, *, tied: bool = False) -> None:
        self.found: list[Finding] = []
        self.problems: list[str] = []
        self.models = Models(1.0, self.found.append, self.problems.append)
        self.parts = InParts(self.models, lambda act: Hook(act, lambda error: self.problems.append(repr(error))))
        self.model = Tagger(tied=tied)
        opt = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.models.attach(self.model, [opt], blind=False)
        train(self.model, opt)
        self.saved = {name: copy.deepcopy(part.state_dict()) for name, part in self.model.named_children()}

    def load(self, model: Tagger, *names: str) -> None:
        for name in names:
            part = model.get_submodule(name)
            part.load_state_dict(self.saved[name])
            self.parts.given(part, self.saved[name])

    def judged(self, model: nn.Module) -> list[Finding]:
        model.eval()
        with torch.no_grad():
            model(torch.randn(4, 4))
        return self.told()

    def told(self) -> list[Finding]:
        self.models.close_all(whole=True)
        assert not self.problems
        return [one for one in self.found if one.code == "K1"]


@pytest.mark.parametrize(
    ("came", "lost"), [(("encoder", "neck"), "head"), (("encoder", "head"), "neck"), (("neck", "head"), "encoder.0")]
)
def test_one_part_is_forgotten(came: tuple[str, ...], lost: str) -> None:
    script, again = Script(), Tagger()
    script.load(again, *came)
    (found,) = script.judged(again)
    assert found.severity == "error" and found.seen["missing"] == [f"{lost}.bias", f"{lost}.weight"]
    assert "read back" in found.message


def test_a_tied_part_is_forgotten() -> None:
    """Its weights have two names."""
    script, again = Script(tied=True), Tagger(tied=True)
    script.load(again, "encoder")
    (found,) = script.judged(again)
    assert "head.weight" in str(found.seen["missing"])


@pytest.mark.parametrize(("fresh", "count"), [(("head",), 1), ((), 0)])
def test_a_library_reads_what_its_file_holds(fresh: tuple[str, ...], count: int) -> None:
    """And makes the rest anew."""
    script, again = Script(), Tagger()
    for name in {"encoder", "neck", "head"}.difference(fresh):
        again.get_submodule(name).load_state_dict(script.saved[name])
    script.parts._read(again)
    assert len(script.judged(again)) == count


@pytest.mark.parametrize(("rest", "count"), [(("neck",), 1), (("neck", "head"), 0)])
def test_a_library_reads_a_part(rest: tuple[str, ...], count: int) -> None:
    """Before it is a part: what else was trained must come too."""
    script, again, read = Script(), Tagger(), Tagger().encoder
    read.load_state_dict(script.saved["encoder"])
    script.parts._read(read)
    again.encoder = read
    for name in rest:
        again.get_submodule(name).load_state_dict(script.saved[name])
    with torch.no_grad():
        again.eval()(torch.randn(4, 4))
    assert len(script.judged(again)) == count


def all_of_it(script: Script, again: Tagger) -> list[Finding]:
    script.load(again, "encoder", "neck", "head")
    return script.judged(again)


def a_new_head_is_trained(script: Script, again: Tagger) -> list[Finding]:
    script.load(again, "encoder", "neck")
    again.eval()
    with torch.no_grad():
        again(torch.randn(4, 4))
    train(again.train(), torch.optim.SGD(again.head.parameters(), lr=0.1))
    return script.told()


def a_head_from_elsewhere(script: Script, again: Tagger) -> list[Finding]:
    script.load(again, "encoder", "neck")
    nn.init.constant_(again.head.weight, 0.5)
    return script.judged(again)


def only_a_part_is_asked(script: Script, again: Tagger) -> list[Finding]:
    script.load(again, "encoder")
    return script.judged(again.encoder)


def features_are_an_answer(script: Script, again: Tagger) -> list[Finding]:
    again.features = True
    script.load(again, "encoder", "neck")
    return script.judged(again)


def parts_of_the_live_one(script: Script, again: Tagger) -> list[Finding]:
    """A slow copy that follows the weights."""
    script.saved = {name: part.state_dict() for name, part in script.model.named_children()}
    script.load(again, "encoder")
    return script.judged(again)


def back_into_the_one_that_was_trained(script: Script, again: Tagger) -> list[Finding]:
    script.load(script.model, "encoder")
    return script.judged(script.model)


def another_kind(script: Script, again: Tagger) -> list[Finding]:
    again.head = nn.Linear(8, 3)
    script.load(again, "encoder", "neck")
    return script.judged(again)


def part_of_another_training(script: Script, again: Tagger) -> list[Finding]:
    script.saved["encoder"] = {name: torch.randn_like(value) for name, value in script.saved["encoder"].items()}
    script.load(again, "encoder")
    return script.judged(again)


QUIET = [all_of_it, a_new_head_is_trained, a_head_from_elsewhere, only_a_part_is_asked, features_are_an_answer]
OTHERS = [parts_of_the_live_one, back_into_the_one_that_was_trained, another_kind, part_of_another_training]


@pytest.mark.parametrize("quiet", [*QUIET, *OTHERS], ids=lambda one: one.__name__)
def test_parts_that_are_as_they_are_meant(quiet: Callable[[Script, Tagger], list[Finding]]) -> None:
    assert quiet(Script(), Tagger()) == []
