"""Ranks that take different numbers of steps: no step of the one is the moment of the other's of that number."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.join import Join
from torch.nn.parallel import DistributedDataParallel

import sightline

EPOCHS = 4


@pytest.fixture
def group(tmp_path: object) -> Iterator[None]:
    """A group of one, for real wrappers: what ranks are to each other is done by hand."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def verdict(counts: tuple[int, int], *, wrapped: bool, join: bool, attack: bool = False) -> tuple[str, str]:
    """What D1 says of two ranks that take so many steps in each epoch, and have the first one's weights after it.

    They are fed the same rows, so that they are alike wherever in an epoch both are. `attack`: each step first asks for
    gradients of its inputs, beside the wrapper.
    """
    torch.manual_seed(0)
    nets, store = [first := nn.Linear(4, 2), copy.deepcopy(first)], dist.HashStore()
    called: list[nn.Module] = [DistributedDataParallel(net) if wrapped else net for net in nets]
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.1) for net in nets]
    batches = torch.randn(EPOCHS, max(counts), 8, 4)
    with ExitStack() as stack:
        guards = [
            stack.enter_context(sightline.attach(net, optimizer, on_finding=None))
            for net, optimizer in zip(nets, optimizers, strict=True)
        ]

        for rank, guard in enumerate(guards):
            guard.replicas.among(store, rank, 2)
        for epoch in range(EPOCHS):
            for rank in (1, 0):
                with Join([called[rank]]) if join else nullcontext():  # type: ignore[list-item]
                    for batch in batches[epoch, : counts[rank]]:
                        if attack:
                            x = batch.clone().requires_grad_()
                            torch.autograd.grad(nets[rank](x).sum(), x)
                        optimizers[rank].zero_grad()
                        called[rank](batch).square().mean().backward()
                        optimizers[rank].step()
            nets[1].load_state_dict(nets[0].state_dict())
        for guard in reversed(guards):
            guard.close()
    (record,) = (one for one in guards[0].records() if one["code"] == "D1")
    return str(record["kind"]), str(record.get("why", ""))


@pytest.mark.parametrize("attack", [False, True])
def test_under_join_nothing_is_compared(attack: bool, group: None) -> None:
    kind, why = verdict((12, 9), wrapped=True, join=True, attack=attack)
    assert kind == "not-run" and "different numbers of steps (Join)" in why


@pytest.mark.slow
def test_without_it_ranks_behind_a_wrapper_are_apart(group: None) -> None:
    assert verdict((12, 9), wrapped=True, join=False)[0] == "finding"
    assert verdict((12, 12), wrapped=True, join=False)[0] == "passed"


def test_counts_that_differ_at_the_end_are_no_end(group: None) -> None:
    assert verdict((12, 9), wrapped=False, join=False)[0] != "finding"
