"""Parameters of every format are measured: in doubles and complex numbers too, with the same norms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sightline
from sightline.attach.meter import Meter


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.complex64, torch.complex128])
def test_norms_and_moves(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.ParameterDict({"w": nn.Parameter(torch.randn(6, 5, dtype=dtype)), "rest": nn.Parameter(torch.ones(3))})
    weight, change = model["w"], torch.randn(6, 5, dtype=dtype)
    weight.grad = torch.randn(6, 5, dtype=dtype)
    meter = Meter(model, {})
    before = meter.before()
    with torch.no_grad():
        weight += change
    still, moved = meter.seen(meter.after(before), before, {})
    exact = [t.detach().abs().double().norm().item() for t in (weight.grad, weight, change)]
    assert [moved.grad_norm, moved.weight_norm] == pytest.approx(exact[:2], rel=1e-2)
    assert moved.update_norm == pytest.approx(exact[2], rel=2e-2) and moved.moved
    assert not still.moved and still.update_norm == 0


@pytest.mark.filterwarnings("ignore:Complex modules", "ignore:Casting complex values")
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64])
def test_loops_in_other_formats(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 2).to(dtype)
    opt = torch.optim.Adam(model.parameters())
    with sightline.attach(model, opt, on_finding=None) as guard:
        for _ in range(6):
            opt.zero_grad()
            model(torch.randn(8, 4, dtype=dtype)).abs().square().mean().backward()
            opt.step()
    assert guard.findings == () and any(r["code"] == "T1" and r["kind"] == "passed" for r in guard.records())
