"""Models that are called inside torch's function transforms, whose tensors have no memory to look into."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from sightline.attach.torch_loop import attach


def test_gradients_of_functions_and_of_each_sample() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(functional_call(model, parameters, (x,)), y)

    def of_one(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return loss(parameters, x[None], y[None])

    with attach(model, optimizer, on_finding=None, budget=1.0) as guard:
        for place in range(12):
            x, y, held = torch.randn(8, 4), torch.randint(0, 3, (8,)), dict(model.named_parameters())
            found = grad(loss)(held, x, y)
            if place % 2:
                found = {name: each.mean(0) for name, each in vmap(grad(of_one), (None, 0, 0))(held, x, y).items()}
            for name, parameter in held.items():
                parameter.grad = found[name].detach()
            optimizer.step()
        assert vmap(model)(torch.randn(5, 4)).shape == (5, 3)
    assert [finding.code for finding in guard.findings if finding.severity != "note"] == []
