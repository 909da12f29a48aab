"""P7 through the door: models under autocast that use it, in their own ways, and some that do not."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import sightline
from sightline.guard.catalogue import load, page

P7 = load((page("P7"),))


class Plain(nn.Module):
    """`wide` classes; parts of the forward pass are done in float32 on purpose."""

    def __init__(self, wide: int = 8) -> None:
        super().__init__()
        self.rise, self.route, self.mix = nn.Linear(16, 32), nn.Linear(32, 4), nn.ModuleList(map(self.expert, range(4)))
        self.norm, self.out = nn.LayerNorm(32), nn.Linear(32, wide)

    def expert(self, _: int) -> nn.Module:
        return nn.Linear(32, 32)

    def body(self, x: Tensor) -> Tensor:
        x = self.rise(x).relu()
        with torch.autocast("cpu", enabled=False):
            gate = F.linear(x.float(), self.route.weight, self.route.bias).softmax(-1)
        return x + sum(gate[:, [k]] * expert(x) for k, expert in enumerate(self.mix))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.body(x))
        with torch.autocast("cpu", enabled=False):
            return F.linear(x.float(), self.out.weight, self.out.bias)


class Checkpointed(Plain):
    def body(self, x: Tensor) -> Tensor:
        return checkpoint(super().body, x, use_reentrant=False)


class Wave(nn.Module):
    """A recurrent body, a convolution and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.turn, self.slide, self.out = nn.GRU(16, 16, batch_first=True), nn.Conv1d(1, 4, 3), nn.Linear(56, 8)

    def forward(self, x: Tensor) -> Tensor:
        turned, _ = self.turn(x[:, None])
        return self.out(self.slide(turned).flatten(1))


class Off(nn.Module):
    """Turns autocast off for all that it does, as a region that grew."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return self.inner(x.float())


def fit(model: nn.Module, context: Callable[[], Any], dtype: torch.dtype = torch.float32) -> list[str]:
    torch.manual_seed(0)
    opt = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with sightline.attach(model, opt, on_finding=None, checks=P7) as guard:
        for _ in range(6):
            opt.zero_grad()
            with context():
                loss = F.cross_entropy(model(torch.randn(12, 16, dtype=dtype)), torch.randint(0, 8, (12,)))
            loss.backward()
            opt.step()
    return [finding.message for finding in guard.findings]


def half() -> Any:
    return torch.autocast("cpu", dtype=torch.bfloat16)


@pytest.mark.parametrize("make", [Plain, Checkpointed, Wave])
def test_autocast_that_reaches_nothing(make: Callable[[], nn.Module]) -> None:
    (said,) = fit(Off(make()), half)
    assert "autocast to bfloat16 is on" in said


@pytest.mark.parametrize("make", [Plain, Checkpointed, Wave, lambda: Plain(50_000)])
@pytest.mark.parametrize("context", [half, nullcontext, lambda: torch.autocast("cpu", enabled=False)])
def test_honest_models(make: Callable[[], nn.Module], context: Callable[[], Any]) -> None:
    assert fit(make(), context) == []


def test_other_formats() -> None:
    assert fit(Wave().bfloat16(), half, torch.bfloat16) == []
    assert fit(Off(Plain()), nullcontext) == []


class Decorated(nn.Module):
    """Autocast as a decorator of forward, where hooks of the model are called outside of it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    @torch.autocast("cpu", dtype=torch.bfloat16)
    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def test_autocast_that_decorates_the_forward() -> None:
    (said,) = fit(Decorated(Off(Wave())), nullcontext)
    assert "autocast to bfloat16 is on" in said
    assert fit(Decorated(Wave()), nullcontext) == []
    assert fit(Decorated(Plain()), nullcontext) == []
