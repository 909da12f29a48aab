"""The meter against norms taken one parameter at a time, in every format; losses that are read from a device later."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sightline
from sightline.attach.mailbox import Mailbox
from sightline.attach.meter import SAMPLE, Meter, rates_of
from sightline.attach.open_step import Loss, OpenStep, read
from sightline.attach.pace import Kind
from sightline.guard.evidence import ParameterSeen


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


class Mixed(nn.Module):
    """Small and large parameters, two formats, one that is frozen, one without a gradient, one that is empty."""

    def __init__(self) -> None:
        super().__init__()
        self.small, self.low = nn.Linear(3, 5), nn.Linear(4, 4, bias=False).bfloat16()
        self.large = nn.Embedding(1000, 50)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.unused, self.none = nn.Parameter(torch.ones(7)), nn.Parameter(torch.empty(0))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        seen = self.large(ids).square().mean() + self.small(torch.ones(2, 3)).square().mean()
        return seen + self.low(torch.ones(2, 4, dtype=torch.bfloat16)).square().mean().float()


def measured(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, ParameterSeen]:
    meter = Meter(model, {})
    before = meter.before()
    optimizer.step()
    table = meter.after(before)
    rates = rates_of(optimizer, {id(p): name for name, p in meter.named})
    return {p.name: p for p in meter.seen(table, before, rates)}


@pytest.mark.parametrize("row", [0, 700])  # the second lies between the places of the sample
def test_against_one_parameter_at_a_time(row: int) -> None:
    torch.manual_seed(0)
    model = Mixed()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    model(torch.tensor([row])).backward()
    old = {name: p.detach().clone() for name, p in model.named_parameters()}
    found = measured(model, optimizer)
    for name, p in model.named_parameters():
        one, change = found[name], (p.detach().float() - old[name].float()).norm().item()
        assert one.weight_norm == pytest.approx(p.detach().float().norm().item(), rel=1e-5)
        assert one.grad_norm == (None if p.grad is None else pytest.approx(p.grad.float().norm().item(), rel=1e-2))
        assert one.moved == (change > 0), name
        if p.numel() <= SAMPLE:
            assert one.update_norm == pytest.approx(change, rel=1e-5)
    assert found["large.weight"].moved and not found["unused"].moved and not found["frozen.weight"].optimized


def test_a_lone_parameter_moves() -> None:
    model = nn.Linear(4, 1, bias=False)
    model(torch.ones(1, 4)).sum().backward()
    found = measured(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert found["weight"].moved and found["weight"].update_norm == pytest.approx(0.2)


def test_a_model_that_changes_its_format_is_measured_anew() -> None:
    model = nn.Linear(4, 2)
    meter = Meter(model, {})
    meter.after(meter.before())
    model.double()
    assert meter.before().samples[0].dtype is torch.float64


def test_weights_packed_into_bytes_beside_adapters() -> None:
    """Frozen weights of four bits are whole numbers: two in a byte."""
    packed = nn.Parameter(torch.randint(0, 256, (8, 1), dtype=torch.uint8), requires_grad=False)
    model = nn.ParameterDict({"packed": packed, "adapter": nn.Parameter(torch.ones(3))})
    meter = Meter(model, {})
    before = meter.before()
    with torch.no_grad():
        model["adapter"] += 1
    adapter, still = sorted(meter.seen(meter.after(before), before, {}), key=lambda seen: seen.name)
    assert adapter.moved and not still.moved
    assert still.weight_norm == pytest.approx(packed.double().norm().item(), rel=1e-5)


def test_what_becomes_nan_has_moved() -> None:
    model = nn.Linear(4, 2)
    model(torch.full((1, 4), float("nan"))).sum().backward()
    assert measured(model, torch.optim.SGD(model.parameters(), lr=0.1))["weight"].moved


def test_losses_that_wait_on_a_device_are_read_at_once_unless_the_host_changed_them() -> None:
    steps, values = [OpenStep(Kind.HEARD) for _ in range(3)], [torch.tensor(float(n)) for n in range(3)]
    for step, value in zip(steps, values, strict=True):
        step.hear(Loss(value, value._version), times=2.0)
    values[1] /= 4
    mailbox = Mailbox()
    read(steps, mailbox)
    assert len(mailbox._letters) == 1
    mailbox.open()
    assert [step.losses for step in steps] == [[0.0], [], [4.0]]
    assert Loss.of(torch.tensor(3.0)).value == 3.0 and Loss.of(torch.tensor([1.0, 3.0])).value == 2.0
