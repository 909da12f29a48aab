"""What ranks evaluate and train on, judged as of one run: two replicas in one process, their gradients averaged."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.utils.data import DistributedSampler, TensorDataset

import sightline

ROWS = torch.randn(400, 16, generator=torch.Generator().manual_seed(1))


def splits(style: str) -> tuple[list[Tensor], list[Tensor]]:
    """Rows that each rank trains on, and those that it evaluates."""
    order = [torch.randperm(400, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    if style in ("a split of each rank's own", "a fold for each rank"):
        return [one[100:] for one in order], [one[:100] for one in order]
    if style == "copies made before":
        order[0] = torch.cat([order[0], *[order[0][order[0] < 60]] * 5])
        order[0] = order[0][torch.randperm(len(order[0]), generator=torch.Generator().manual_seed(2))]
    judged = order[0][100:] if style == "a training score" else order[0][:100]
    return [order[0][100:]] * 2, [judged[::2], judged[1::2]]


def found(style: str) -> list[str]:
    """The messages of M1. Each rank sees half of what it could train on, in each epoch another one."""
    torch.manual_seed(0)
    train, judged = splits(style)
    first, store = nn.Linear(16, 2), distributed.HashStore()
    models = [copy.deepcopy(first), first]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.01) for model in models]
    guards = [sightline.attach(m, o, on_finding=None) for m, o in zip(models, optimizers, strict=True)]
    for rank, guard in enumerate(guards):
        guard.replicas.among(store, rank, 2)
    samplers = [
        DistributedSampler[object](TensorDataset(ROWS[rows]), num_replicas=2, rank=r) for r, rows in enumerate(train)
    ]
    for epoch in range(3):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        parts = [rows[list(sampler)].split(15) for rows, sampler in zip(train, samplers, strict=True)]
        for batches in zip(*parts, strict=True):
            for model, batch in zip(models, batches, strict=True):
                model(ROWS[batch]).square().mean().backward()
            if style != "a fold for each rank":
                for one, other in zip(*(list(model.parameters()) for model in models), strict=True):
                    assert one.grad is not None and other.grad is not None
                    one.grad = other.grad = (one.grad + other.grad) / 2
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
        for model, guard, rows in zip(models, guards, judged, strict=True):
            with guard.evaluating(), torch.no_grad():
                for batch in rows.split(25):
                    model(ROWS[batch])
    for guard in reversed(guards):
        guard.close()
    return [finding.message for guard in guards for finding in guard.findings if finding.code == "M1"]


@pytest.mark.parametrize("style", ["one split", "a training score", "a fold for each rank"])
def test_ranks_that_evaluate_what_is_new_or_what_all_train_on(style: str) -> None:
    assert found(style) == []


@pytest.mark.parametrize("style", ["a split of each rank's own", "copies made before"])
def test_rows_that_another_rank_trained_on(style: str) -> None:
    (message,) = found(style)
    assert message.endswith("evaluated rows had been trained on" + " by other ranks" * style.startswith("a split"))
