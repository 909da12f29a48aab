"""Runs in which what can learn changes: what a stage forgets is found in it, and sound changes are no alarm."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sightline
from sightline.guard.catalogue import load, page

STAGE = 8  # steps
LEARNING = load(tuple(page(code) for code in ("T1", "T2", "T5", "T6", "P4", "P6", "X1", "X2")))


class Reader(nn.Module):
    """A tower and a head. `lost`: what becomes of the tower's graph where it is to learn."""

    def __init__(self, lost: str = "") -> None:
        super().__init__()
        self.tower = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh())
        self.head = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 2))
        self.lost = lost

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.lost != "no grad"):
            features = self.tower(x)
        return self.head(features.detach() if self.lost == "detached" else features)


Stages = Callable[[Reader], Iterator[torch.optim.Optimizer]]


def new_optimizer(model: Reader) -> Iterator[torch.optim.Optimizer]:
    """The tower is woken, and another optimizer holds all."""
    model.tower.requires_grad_(False)
    yield torch.optim.Adam(model.head.parameters(), lr=1e-2)
    model.tower.requires_grad_(True)
    yield torch.optim.Adam(model.parameters(), lr=1e-2)


def one_optimizer(model: Reader) -> Iterator[torch.optim.Optimizer]:
    """It holds all from the beginning."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for learns in (False, True):
        model.tower.requires_grad_(learns)
        yield optimizer


def new_group(model: Reader) -> Iterator[torch.optim.Optimizer]:
    """The tower comes to the optimizer later."""
    optimizer = torch.optim.Adam(model.head.parameters(), lr=1e-2)
    model.tower.requires_grad_(False)
    yield optimizer
    model.tower.requires_grad_(True)
    optimizer.add_param_group({"params": list(model.tower.parameters()), "lr": 1e-3})
    yield optimizer


def unfrozen_by_and_by(model: Reader) -> Iterator[torch.optim.Optimizer]:
    """From the last layer to the first, each time with an optimizer of its own."""
    parts = [part for part in (*model.tower, *model.head) if list(part.parameters())]
    model.requires_grad_(False)
    for part in reversed(parts):
        part.requires_grad_(True)
        yield torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-2)


def frozen_again(model: Reader) -> Iterator[torch.optim.Optimizer]:
    """First by its flags; then it merely runs without a graph, and the optimizer keeps it."""
    yield from new_optimizer(model)
    model.tower.requires_grad_(False)
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=1e-2)
    yield optimizer
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    model.tower.requires_grad_(True)
    yield optimizer
    model.lost = "no grad"
    yield optimizer


def grown(model: Reader) -> Iterator[torch.optim.Optimizer]:
    """A layer more for each stage, at first with the old optimizer, then with one that is made anew."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    yield optimizer
    for again in (False, True):
        layer = nn.Linear(16, 16)
        model.head.insert(1, layer)
        if again:
            optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        else:
            optimizer.add_param_group({"params": list(layer.parameters())})
        yield optimizer


def grown_in_vain(model: Reader) -> Iterator[torch.optim.Optimizer]:
    """No optimizer is told of the new layer."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    yield optimizer
    model.head.insert(1, nn.Linear(16, 16))
    yield optimizer
    yield optimizer


def alarms(stages: Stages, lost: str = "", *, budget: float = 1.0, steps: int = STAGE) -> list[str]:
    """The codes of what is found; `lost` from the second stage on."""
    torch.manual_seed(0)
    model, codes = Reader(), []
    with sightline.attach(model, on_finding=None, budget=budget, checks=LEARNING) as guard:
        for stage, optimizer in enumerate(stages(model)):
            if stage and lost:
                model.lost = lost
            for _ in range(steps):
                x = torch.randn(32, 8)
                optimizer.zero_grad()
                F.cross_entropy(model(x), (x[:, 0] * x[:, 1] > 0).long()).backward()
                optimizer.step()
    codes = [f.code for f in guard.findings if f.severity != "note"]
    return codes


@pytest.mark.parametrize(
    ("stages", "lost"),
    [(new_optimizer, "detached"), (one_optimizer, "no grad"), (new_group, "no grad")],
    ids=lambda one: getattr(one, "__name__", one),
)
def test_a_tower_that_is_woken_in_vain(stages: Stages, lost: str) -> None:
    assert alarms(stages, lost) == ["T1"]


def test_a_layer_that_nobody_moves() -> None:
    assert alarms(grown_in_vain) == ["T1"]


@pytest.mark.parametrize("stages", [new_optimizer, one_optimizer], ids=lambda one: one.__name__)
def test_a_new_stage_wakes_the_guard(stages: Stages) -> None:
    """By then it sleeps for as long as a step is too short to pay for a look."""
    assert alarms(stages, "no grad", budget=1e-6, steps=80) == ["T1"]


@pytest.mark.parametrize(
    "stages",
    [new_optimizer, one_optimizer, new_group, unfrozen_by_and_by, frozen_again, grown],
    ids=lambda one: one.__name__,
)
def test_sound_changes(stages: Stages) -> None:
    assert alarms(stages) == []


@pytest.mark.parametrize("how", ["no grad", "flags"])
@pytest.mark.parametrize("critic", [1, 5])
def test_networks_that_take_turns_in_one_module(how: str, critic: int) -> None:
    """A GAN whose parts are one model, and each part's optimizer leaves the other alone."""
    torch.manual_seed(0)
    model = Reader()
    maker, judge = model.tower, model.head
    opt_maker, opt_judge = torch.optim.Adam(maker.parameters(), lr=1e-3), torch.optim.Adam(judge.parameters(), lr=1e-3)
    with sightline.attach(model, on_finding=None, budget=1.0, checks=LEARNING) as guard:
        for n in range(4 * STAGE):
            judges = n % (critic + 1) < critic
            if how == "flags":
                maker.requires_grad_(not judges)
                judge.requires_grad_(judges)
            model.lost = "no grad" if judges and how == "no grad" else ""
            model.zero_grad()
            made = model(torch.randn(32, 8))
            loss = F.cross_entropy(made, torch.full((32,), int(judges)))
            if judges:
                loss = loss + F.cross_entropy(judge(torch.randn(32, 16)), torch.zeros(32).long())
            loss.backward()
            (opt_judge if judges else opt_maker).step()
    assert [f.code for f in guard.findings if f.severity != "note"] == []
