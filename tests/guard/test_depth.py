"""Where a gradient is lost: in one layer, in each, or nowhere; read off evidence, and in real stacks of layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sightline.guard.evidence.depth import lost_in


def stack(*gradients: float, name: str = "body.layer") -> dict[str, float]:
    """A gradient for each layer, first to last, and a weaker one of another module in it."""
    found = {}
    for number, gradient in enumerate(gradients):
        found |= {f"{name}.{number}.mlp": gradient, f"{name}.{number}.norm": gradient / 3}
    return found | {"head": 1.0}


@pytest.mark.parametrize(
    ("gradients", "told"),
    [
        (stack(1e-7, 1e-7, 1e-7, 1e-2, 1e-2), "; on the way back it is lost in body.layer.3, 1e+05 times"),
        (stack(1e-7, 1e-6, 1e-5, 1e-4, 1e-3), "; on the way back each of the 5 layers body.layer.* loses 10 times"),
        (stack(1e-3, 2e-3, 1e-3, 4e-3, 2e-3), ""),
        (stack(1e-9, 1e-2), ""),
        (stack(0.0, 1e-7, 1e-2), ""),
        ({"first": 1e-9, "last": 1.0}, ""),
        ({}, ""),
        ({"0": 1e-9, "1": 1e-8, "2": 1.0, "3": 1.0}, "; on the way back it is lost in 2, 1e+08 times"),
        ({"0": 1e-9, "2": 1e-8, "4": 1e-7}, "; on the way back each of the 3 layers loses 10 times"),
    ],
    ids=["in one", "in each", "nowhere", "two layers", "no gradient", "no stack", "nothing", "a sequence", "all of it"],
)
def test_what_is_said(gradients: dict[str, float], told: str) -> None:
    assert lost_in(gradients) == told


def test_the_longest_stack_is_looked_at() -> None:
    assert lost_in(stack(1e-9, 1e-3, 1e-3, name="short") | stack(1e-2, 1e-2, 1e-2, 1e-2)) == ""
    assert "short.1" in lost_in(stack(1e-9, 1e-3, 1e-3, name="short") | {"long.0": 1.0, "long.1": 1.0})


@pytest.mark.parametrize(
    ("kind", "told"), [("sigmoid", "each of the 12 layers"), ("one", "lost in layers.6,"), ("relu", "")]
)
def test_in_layers_of_torch(kind: str, told: str) -> None:
    """All of them squash, one is initialised a million times too small, or none (He's init)."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"layers": nn.ModuleList(nn.Linear(64, 64) for _ in range(12)), "head": nn.Linear(64, 2)})
    layers = model["layers"]
    assert isinstance(layers, nn.ModuleList)
    activation = torch.sigmoid if kind == "sigmoid" else torch.relu
    for number, layer in enumerate(layers):
        assert isinstance(layer, nn.Linear)
        if kind != "sigmoid":
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if kind == "one" and number == 6:
            layer.weight.data.mul_(1e-6)
    hidden = torch.randn(32, 64)
    for layer in layers:
        hidden = activation(layer(hidden))
    model["head"](hidden).square().mean().backward()
    gradients = {
        name: float(part.weight.grad.square().mean().sqrt())
        for name, part in model.named_modules()
        if isinstance(part, nn.Linear) and part.weight.grad is not None
    }
    found = lost_in(gradients)
    assert told in found if told else found == ""
