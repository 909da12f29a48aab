from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sightline.plan.memory import StateBytes, human, tensor_bytes


def network(device: str = "cpu", dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """A frozen layer, a layer and a norm that learn, buffers, and a tied weight."""
    with torch.device(device):
        net = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 7), nn.Linear(7, 7, bias=False))
    net[3].weight = net[2].weight
    net[0].requires_grad_(False)
    return net.to(dtype)


def planned_for(net: nn.Module, **options: bool) -> StateBytes:
    return tensor_bytes([*net.parameters(), net[3].weight], net.buffers(), **options)  # type: ignore[index]


def held(tensors: list[Tensor]) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in {id(tensor): tensor for tensor in tensors}.values())


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
def test_bytes_are_those_of_a_real_step(autocast: bool, fused: bool) -> None:
    net = network()
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], fused=fused)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        loss = net(torch.randn(3, 5)).square().mean()
    loss.backward()
    optimizer.step()
    expected = StateBytes(
        weights=held(list(net.parameters())),
        buffers=held(list(net.buffers())),
        gradients=held([p.grad for p in net.parameters() if p.grad is not None]),
        optimizer=held([value for state in optimizer.state.values() for value in state.values()]),
    )
    assert planned_for(network("meta")) == expected
    assert expected.optimizer > 2 * expected.gradients  # the step counts are in it


def test_masters_are_those_of_a_real_step() -> None:
    net = network(dtype=torch.bfloat16)
    learning = [p for p in net.parameters() if p.requires_grad]
    masters = [p.detach().float().requires_grad_() for p in learning]
    optimizer = torch.optim.AdamW(masters)
    net(torch.randn(3, 5, dtype=torch.bfloat16)).square().mean().backward()
    for master, parameter in zip(masters, learning, strict=True):
        assert parameter.grad is not None
        master.grad = parameter.grad.float()  # passing: freed after the step
    optimizer.step()
    planned = planned_for(network("meta", torch.bfloat16), masters=True)
    assert planned.masters == held(masters)
    assert planned.weights == held(list(net.parameters()))
    assert planned.gradients == held([p.grad for p in learning if p.grad is not None])
    assert planned.optimizer == held([value for state in optimizer.state.values() for value in state.values()])


def test_masters_change_nothing_in_fp32() -> None:
    assert planned_for(network(), masters=True) == planned_for(network())


def test_nothing_that_learns_costs_weights_alone() -> None:
    net = network().requires_grad_(False)
    planned = planned_for(net, ema=True)
    assert planned.total == planned.weights + planned.buffers > 0


def test_ema_is_one_copy_of_what_learns() -> None:
    assert planned_for(network(), ema=True).average == planned_for(network()).gradients


def test_sums() -> None:
    one, two = StateBytes(1, 2, 3, 4, 5, 6), StateBytes(weights=10)
    assert (one + two) == StateBytes(11, 2, 3, 4, 5, 6)
    assert (one + two).total == 31


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (13 * 2**30, "13.0 GiB"), (2**41, "2.0 TiB")]
)
def test_human(count: int, text: str) -> None:
    assert human(count) == text
