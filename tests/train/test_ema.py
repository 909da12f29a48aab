"""The moving average against its closed form."""

from __future__ import annotations

import torch
from torch import nn

from sightline.train.ema import Ema


def test_equals_the_recurrence_in_fp64() -> None:
    model = nn.Linear(2, 2, bias=False)
    ema = Ema(model, 0.95)
    expected = model.weight.detach().double().clone()
    for step in range(40):
        with torch.no_grad():
            model.weight.normal_(generator=torch.Generator().manual_seed(step))
        ema.update(step)
        decay = min(0.95, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach().double()
    torch.testing.assert_close(ema.values["weight"].double(), expected, rtol=1e-5, atol=1e-6)


def test_in_place_gives_the_live_weights_back() -> None:
    model = nn.Linear(3, 3)
    ema = Ema(model, 0.5)
    with torch.no_grad():
        model.weight.add_(1)
    live = model.weight.detach().clone()
    with ema.in_place():
        assert torch.equal(model.weight, ema.values["weight"])
        assert not torch.equal(model.weight, live)
    assert torch.equal(model.weight, live)
    ema.adopt()
    assert torch.equal(model.weight, ema.values["weight"])


def test_frozen_parameters_are_left_alone() -> None:
    model = nn.Linear(3, 3)
    model.bias.requires_grad_(False)
    assert set(Ema(model, 0.9).values) == {"weight"}
