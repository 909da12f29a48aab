"""Parameters that an optimizer holds beside the model, on two ranks: a loss of its own in no wrapper."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, distributed, nn

import sightline


class Proxies(nn.Module):
    """A loss with a vector for each class."""

    def __init__(self) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(3, 4))

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(features @ self.centres.T, labels)


@pytest.mark.parametrize("style", ["averaged", "forgotten", "a part of each rank's own"])
def test_the_parameters_of_a_loss(style: str) -> None:
    torch.manual_seed(0)
    store, net, proxies = distributed.HashStore(), nn.Linear(8, 4), Proxies()
    models, losses = [copy.deepcopy(net), net], [copy.deepcopy(proxies), proxies]
    if style == "a part of each rank's own":
        nn.init.normal_(losses[1].centres)
    optimizers = [
        torch.optim.SGD([*model.parameters(), *loss.parameters()], lr=0.1)
        for model, loss in zip(models, losses, strict=True)
    ]
    guards = [sightline.attach(m, o, on_finding=None) for m, o in zip(models, optimizers, strict=True)]
    for rank, guard in enumerate(guards):
        guard.replicas.among(store, rank, 2)
    for _ in range(8):
        for model, loss in zip(models, losses, strict=True):
            loss(model(torch.randn(6, 8)), torch.randint(3, (6,))).backward()
        for part in (models, losses) if style == "averaged" else (models,):
            for one, other in zip(*(list(module.parameters()) for module in part), strict=True):
                assert one.grad is not None and other.grad is not None
                one.grad = other.grad = (one.grad + other.grad) / 2
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    for guard in reversed(guards):
        guard.close()
    found = [one for one in guards[0].findings if one.code == "D1"]
    assert bool(found) == (style == "forgotten")
    assert all("first beside the model: 1 (3, 4)" in one.message and "DDP(loss)" in one.fix for one in found)
