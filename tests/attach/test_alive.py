"""Modules that are noted as they are made are those that a pass over all Python objects finds."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from sightline.attach import alive


@pytest.fixture
def before(monkeypatch: pytest.MonkeyPatch) -> Iterator[nn.Module]:
    """A module from before the others are noted."""
    for name in ("__init__", "__setstate__"):
        monkeypatch.setattr(nn.Module, name, getattr(nn.Module, name))
    monkeypatch.setattr(alive, "_noted", None)
    module = nn.Linear(2, 2)
    alive.note()
    yield module


def in_the_heap() -> set[int]:
    gc.collect()
    every = [thing for thing in gc.get_objects() if issubclass(type(thing), nn.Module)]
    return {id(m) for m in every if "_modules" in m.__dict__ and not isinstance(m, torch.jit.ScriptModule)}


def noted() -> set[int]:
    return {id(module) for module in alive.modules_alive()}


def test_as_many_as_the_heap_has(before: nn.Module) -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.MultiheadAttention(4, 2), nn.LSTM(4, 4))
    kept = [
        copy.deepcopy(net),
        copy.copy(net),
        pickle.loads(pickle.dumps(net)),
        torch.fx.symbolic_trace(nn.Sequential(nn.Linear(3, 3), nn.ReLU())),
        copy.deepcopy(torch.fx.symbolic_trace(nn.Sequential(nn.Linear(3, 3)))),
        torch.compile(nn.Linear(3, 3)),
        parametrizations.weight_norm(nn.Linear(3, 3)),
    ]
    heap = in_the_heap()  # first, for it collects what other tests have left
    assert noted() == heap
    assert {id(module) for one in (before, net, *kept) for module in one.modules()} <= noted()


def test_what_nobody_holds_is_gone(before: nn.Module) -> None:
    layer, count = nn.Linear(4, 4), len(alive.modules_alive())
    for _ in range(100):
        nn.Linear(4, 4)
    assert len(alive.modules_alive()) == count
    del layer
    assert len(alive.modules_alive()) == count - 1
    assert any(module is before for module in alive.modules_alive())


def test_torchscript_is_left_out(before: nn.Module) -> None:
    scripted = torch.jit.script(nn.Linear(3, 3))
    assert not any(module is scripted for module in alive.modules_alive())


def test_a_module_that_is_made_in_a_compiled_function(before: nn.Module) -> None:
    @torch.compile(fullgraph=True, backend="eager")
    def loss(x: torch.Tensor) -> torch.Tensor:
        return nn.MSELoss()(x, torch.zeros(3))

    assert loss(torch.full((3,), 2.0)).item() == 4.0
