"""The probe of a model's own train(): what it would freeze is told, and nothing of the model changes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from sightline.guard.probes.own_mode import own_mode


class Staged(nn.Module):
    """Freezes its first part whenever its mode is set, says so, and holds what cannot be copied."""

    def __init__(self, quiet: bool = False) -> None:
        super().__init__()
        self.first, self.last = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), nn.Linear(4, 2)
        self.quiet, self.calls, self.seen, self.open = quiet, 0, [], open("/dev/null")  # noqa: SIM115

    def train(self, mode: bool = True) -> Staged:
        super().train(mode)
        self.calls += 1
        print("freezing")
        self.first.eval()
        if not self.quiet:
            self.first.requires_grad_(False)
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.last_seen = self.first(x)
        return self.last(self.last_seen)


def state(model: nn.Module) -> dict[str, Any]:
    flags = {name: module.training for name, module in model.named_modules()}
    values = {name: value.clone() for name, value in model.state_dict().items()}
    return {"flags": flags, "learn": [p.requires_grad for p in model.parameters()], "values": values}


def test_what_it_would_freeze_and_that_nothing_changed(capsys: pytest.CaptureFixture[str]) -> None:
    model = Staged()
    model(torch.randn(8, 4))  # leaves a tensor inside a graph behind
    model.register_forward_hook(lambda *_: None)
    before = state(model)
    seen = own_mode(model, 3)
    assert seen is not None and (seen.step, seen.kind) == (3, "Staged")
    assert seen.freezes == ("first.0.weight", "first.0.bias", "first.1.weight", "first.1.bias")
    assert seen.quiets == ("first", "first.0", "first.1")
    after = state(model)
    assert before["flags"] == after["flags"] and before["learn"] == after["learn"] and model.calls == 0
    assert all(torch.equal(value, after["values"][name]) for name, value in before["values"].items())
    assert capsys.readouterr().out == ""


def test_once_called_nothing_is_left_to_freeze() -> None:
    model = Staged()
    model.train()
    seen = own_mode(model, 3)
    assert seen is not None and not seen.freezes and not seen.quiets


def test_modes_alone() -> None:
    seen = own_mode(Staged(quiet=True), 0)
    assert seen is not None and not seen.freezes and "first.1" in seen.quiets


def test_what_cannot_be_asked() -> None:
    assert own_mode(nn.Linear(2, 2), 0) is None  # no train() of its own
    model = Staged()
    model.train()
    assert own_mode(model.eval(), 0) is None
    patched = Staged()
    patched.first.train = lambda mode=True: patched.first  # reaches the model itself
    assert own_mode(patched, 0) is None

    class Fails(Staged):
        def __deepcopy__(self, memo: dict[int, Any]) -> Any:
            raise TypeError("no copies")

    assert own_mode(Fails(), 0) is None
    with pytest.raises(TypeError):
        copy.deepcopy(Fails())
