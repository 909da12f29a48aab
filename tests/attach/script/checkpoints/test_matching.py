"""States that were filtered by name until nothing was left of a file, and states for which that is fine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import nn

from sightline.attach.hook import Hook
from sightline.attach.script.checkpoints.matching import Matching
from sightline.attach.script.watch import Models
from sightline.guard.check import Finding

pytestmark = pytest.mark.usefixtures("origins")
State = Mapping[str, Any]


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 8), nn.Linear(8, 2))


class Script:
    """Trains one network, wrapped or not, and reads the file of it that it wrote."""

    def __init__(self, prefix: str = "module.") -> None:
        self.found: list[Finding] = []
        self.problems: list[str] = []
        self.models = Models(1.0, self.found.append, self.problems.append)
        self.matching = Matching(self.models, lambda act: Hook(act, lambda error: self.problems.append(repr(error))))
        self.trained = net()
        self.opt = torch.optim.SGD(self.trained.parameters(), lr=0.1)
        self.models.attach(self.trained, [self.opt], blind=False)
        self.step()
        self.file = {f"{prefix}{name}": value.clone() for name, value in self.trained.state_dict().items()}
        self.matching.came("last.pt", {"epoch": 1, "state_dict": self.file})

    def step(self) -> None:
        self.opt.zero_grad()
        self.trained(torch.randn(4, 4)).square().mean().backward()
        self.opt.step()

    def load(self, model: nn.Module, state: State) -> None:
        model.load_state_dict(state, strict=False)
        self.matching.given(model, state)

    def codes(self, *judged: nn.Module) -> list[str]:
        with torch.no_grad():
            for model in judged:
                model.eval()(torch.randn(4, 4))
        self.models.close_all(whole=True)
        assert not self.problems
        return [one.message for one in self.found if one.code == "K1"]


def matching(model: nn.Module, state: State) -> State:
    own = model.state_dict()
    return {name: value for name, value in state.items() if name in own}


def updated(model: nn.Module, state: State) -> State:
    own = model.state_dict()
    own.update(matching(model, state))
    return own


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.net."])
@pytest.mark.parametrize("idiom", [updated, matching])
def test_nothing_matches_and_nothing_came(idiom: Callable[[nn.Module, State], State], prefix: str) -> None:
    script, fresh = Script(prefix), net()
    script.load(fresh, idiom(fresh, script.file))
    (message,) = script.codes(fresh)
    assert f"begins with '{prefix}'" in message and message.endswith("nothing was loaded")


def test_the_wrapper_is_on_our_side() -> None:
    script, fresh = Script(prefix=""), nn.Sequential()
    fresh.add_module("module", net())
    script.load(fresh, updated(fresh, script.file))
    assert "'module.'" in script.codes(fresh)[0]


def test_the_prefix_is_taken_off() -> None:
    script, fresh = Script(), net()
    script.load(fresh, updated(fresh, {name.removeprefix("module."): value for name, value in script.file.items()}))
    assert script.codes(fresh) == []


def test_it_comes_at_a_second_try() -> None:
    script, fresh = Script(), net()
    script.load(fresh, matching(fresh, script.file))
    script.load(fresh, {name.removeprefix("module."): value for name, value in script.file.items()})
    assert script.codes(fresh) == []


def by_hand(script: Script, fresh: nn.Module) -> None:
    own = fresh.state_dict()
    for name, value in script.file.items():
        own[name.removeprefix("module.")].copy_(value)
    script.load(fresh, own)


def a_part_by_hand(script: Script, fresh: nn.Module) -> None:
    """A body with another head on it."""
    own = fresh.state_dict()
    for name, value in script.file.items():
        if not name.startswith("module.3."):
            own[name.removeprefix("module.")].copy_(value)
    script.load(fresh, own)


def rounded(script: Script, fresh: nn.Module) -> None:
    fresh.half()
    by_hand(script, fresh)
    fresh.float()


def of_another_file(script: Script, fresh: nn.Module) -> None:
    other = {f"module.{name}": torch.randn(7, 5) for name in fresh.state_dict()}
    script.matching.came("other.pt", other)
    script.load(fresh, updated(fresh, other))


def two_of_a_kind(script: Script, fresh: nn.Module) -> None:
    """The file is of one tower, and the other has none in it."""
    script.load(fresh, matching(fresh, script.file))
    script.load(net(), {name.removeprefix("module."): value for name, value in script.file.items()})


def read_long_ago(script: Script, fresh: nn.Module) -> None:
    script.step()
    script.load(fresh, updated(fresh, {}))


def an_average(script: Script, fresh: nn.Module) -> None:
    """Given what the trained one has, as each average is."""
    script.load(fresh, script.trained.state_dict())


def what_was_saved(script: Script, _: nn.Module) -> None:
    script.load(script.trained, script.trained.state_dict())


def many_in_one(script: Script, fresh: nn.Module) -> None:
    both = {f"{tower}.{name}": torch.randn(v.shape) for tower in ("a", "b") for name, v in fresh.state_dict().items()}
    script.matching.came("both.pt", both)
    script.load(fresh, updated(fresh, both))


QUIET = [by_hand, a_part_by_hand, rounded, of_another_file, two_of_a_kind, read_long_ago, an_average]


@pytest.mark.parametrize("quiet", [*QUIET, what_was_saved, many_in_one], ids=lambda one: one.__name__)
def test_what_is_as_it_was_meant(quiet: Callable[[Script, nn.Module], None]) -> None:
    script, fresh = Script(), net()
    quiet(script, fresh)
    assert script.codes(fresh) == []
