"""Law: after a probe everything is bit-identical, also when the probe raises."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sightline.guard.probes.restore import as_bytes, untouched


def build() -> tuple[nn.Sequential, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
    model[0].bias.requires_grad_(False)
    model[1].eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model(torch.randn(4, 4)).sum().backward()
    optimizer.step()
    return model, optimizer


def snapshot(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return {
        "weights": [p.detach().clone() for p in model.parameters()],
        "identities": [(id(p), id(p.grad)) for p in model.parameters()],
        "gradients": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "learns": [p.requires_grad for p in model.parameters()],
        "buffers": {name: (id(b), b.clone()) for name, b in model.named_buffers()},
        "modes": [m.training for m in model.modules()],
        "state": [[{k: v.clone() for k, v in s.items()}] for s in optimizer.state.values()],
        "groups": [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups],
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": np.random.get_state(),
    }


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return bool((one == other).all())
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def disturb(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Everything a careless probe might do."""
    model.train()
    model[0].eval()
    for p in model.parameters():
        p.requires_grad_(True)
    model.register_buffer("late", torch.ones(1))
    model[1].running_mean = torch.ones(8)
    optimizer.param_groups[0]["lr"] = 1.0
    model(torch.randn(4, 4)).sum().backward()
    optimizer.step()
    random.random(), np.random.rand(), torch.rand(1)


@pytest.mark.parametrize("raises", [False, True])
def test_everything_is_put_back(raises: bool) -> None:
    model, optimizer = build()
    before = snapshot(model, optimizer)
    try:
        with untouched(model, optimizer, weights=True):
            disturb(model, optimizer)
            assert not same(before, snapshot(model, optimizer))
            if raises:
                raise RuntimeError("the probe fails")
    except RuntimeError:
        assert raises
    assert same(before, snapshot(model, optimizer))
    assert not hasattr(model, "late")


def test_a_fresh_optimizer_is_fresh_again() -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    with untouched(model, optimizer, weights=True):
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    assert not optimizer.state


def test_a_probe_between_forward_and_backward_leaves_the_graph_alone() -> None:
    model, _ = build()
    model.zero_grad()
    x = torch.randn(4, 4)
    torch.manual_seed(1)
    model(x).square().sum().backward()
    expected = [p.grad.clone() if p.grad is not None else None for p in model.parameters()]
    model.zero_grad()
    torch.manual_seed(1)
    loss = model(x).square().sum()
    with untouched(model), torch.no_grad():
        model.eval()
        model(x)
    loss.backward()
    assert same(expected, [p.grad for p in model.parameters()])


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_that_trains_can_still_be_differentiated(momentum: float | None) -> None:
    """Its running statistics are saved for the backward pass: the probe's forward must not write to them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=momentum), nn.Flatten(), nn.Linear(16, 2))
    pixels = torch.randn(5, 3, 4, 4)
    loss = model(pixels).sum()
    held = [(name, id(buffer), buffer.clone()) for name, buffer in model.named_buffers()]
    with untouched(model):
        model(torch.randn(5, 3, 4, 4)).sum().backward()
    loss.backward()
    after = dict(model.named_buffers())
    assert all(id(after[name]) == place and torch.equal(after[name], value) for name, place, value in held)


def test_an_optimizer_without_weights_is_refused() -> None:
    model, optimizer = build()
    with pytest.raises(ValueError, match="weights=True"), untouched(model, optimizer):
        pass


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (0,), (3, 2)])
def test_any_tensor_as_bytes(shape: tuple[int, ...]) -> None:
    tensor = torch.arange(9000)[7:].as_strided(shape, [1800, 600][: len(shape)])
    assert as_bytes(tensor).numpy().tobytes() == tensor.numpy().tobytes()


class _Layout:
    def __init__(self) -> None:
        self.transposed, self.scales = False, torch.ones(2)


class _Packed(nn.Parameter):
    """Four-bit weights, as it were: how they lie is said by an object beside them."""

    packing: _Layout


class _Quantised(nn.Module):
    """Its first call in evaluation mode changes how its weights lie, for good."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = _Packed(torch.arange(6, dtype=torch.uint8).reshape(2, 3), requires_grad=False)
        self.weight.packing = _Layout()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        layout = self.weight.packing
        if not self.training and not layout.transposed:
            self.weight.data, layout.transposed = self.weight.data.T.contiguous(), True
            del layout.scales
        return x @ (self.weight if layout.transposed else self.weight.T).float()


@pytest.mark.parametrize("weights", [False, True])
def test_quantised_weights_lie_as_before(weights: bool) -> None:
    model = _Quantised()
    data, layout = model.weight.data, model.weight.packing
    with untouched(model, weights=weights):
        model.eval()(torch.ones(1, 3))
        assert layout.transposed and model.weight.shape == (3, 2)
    assert model.weight.data_ptr() == data.data_ptr() and model.weight.shape == (2, 3)
    assert model.weight.packing is layout and not layout.transposed and layout.scales.tolist() == [1, 1]
    assert torch.equal(model(torch.ones(1, 3)), torch.tensor([[3.0, 12.0]]))
