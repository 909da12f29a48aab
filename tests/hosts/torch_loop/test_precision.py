"""P2, P3 and P4 through the door: half precision as people write it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sightline

pytestmark = pytest.mark.slow  # many settings of rules that quick tests prove in one


def net(width: int = 64) -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(20, width), nn.GELU(), nn.LayerNorm(width), nn.Linear(width, 5))


def batch(size: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(size, 20)
    return x, x[:, :5].argmax(1)


def half(
    clip: str,
    *,
    make: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
    steps: int = 14,
    scale: float = 2.0**16,
    micro: int = 1,
    limit: float = 0.5,
    break_at: int | None = None,
    budget: float = 0.02,
) -> list[str]:
    """Float16 autocast with a scaler; clips before or after unscaling, by norm or value, or not at all."""
    model = net()
    opt = make(model.parameters(), lr=0.02)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    with sightline.attach(model, opt, on_finding=None, budget=budget) as guard:
        for number in range(steps * micro):
            x, y = batch()
            with torch.autocast("cpu", dtype=torch.float16):
                loss = F.cross_entropy(model(x).float(), y) / micro
            if break_at is not None and number >= break_at:
                loss = loss * torch.tensor(float("nan"))
            scaler.scale(loss).backward()
            if (number + 1) % micro:
                continue
            if clip.startswith("after"):
                scaler.unscale_(opt)
            if clip.endswith("norm"):
                nn.utils.clip_grad_norm_(model.parameters(), limit)
            if clip.endswith("value"):
                nn.utils.clip_grad_value_(model.parameters(), 0.01)
            scaler.step(opt)
            scaler.update()
            opt.zero_grad(set_to_none=True)
    return sorted(f.code for f in guard.findings)


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("clip", ["before norm", "before value"])
def test_clipped_while_scaled(clip: str, make: Any) -> None:
    assert half(clip, make=make) == ["P3"]


def test_clipped_while_scaled_with_accumulation() -> None:
    assert half("before norm", micro=3) == ["P3"]


@pytest.mark.parametrize("clip", ["after norm", "after value", "none"])
@pytest.mark.parametrize("more", [{}, {"scale": 2.0**10}, {"micro": 2}, {"limit": 0.01}, {"budget": 1.0}])
def test_clipped_rightly_or_not_at_all(clip: str, more: dict[str, Any]) -> None:
    assert half(clip, **more) == []


def test_a_scale_that_halves_without_end() -> None:
    assert "P2" in half("none", break_at=6, steps=60)
    assert "P2" in half("none", break_at=0, steps=60)  # not one step is ever taken


def test_a_scale_that_finds_its_level() -> None:
    assert half("after norm", scale=2.0**40, steps=60) == []


def staged(*stages: tuple[torch.dtype, Callable[[Any], torch.optim.Optimizer] | None], noise: float = 0.0) -> list[str]:
    """One model without any scaler, each stage in a format and with an optimizer of its own, or with the one before.

    `noise`: share of the labels that are dealt at random.
    """
    model = net(96)
    opt: torch.optim.Optimizer | None = None
    with sightline.attach(model, on_finding=None) as guard:
        for dtype, make in stages:
            model.to(dtype)
            opt = make(model.parameters()) if make is not None else opt
            assert opt is not None
            for _ in range(60):
                x, y = batch()
                y = torch.where(torch.rand(len(y)) < noise, torch.randint(5, y.shape), y)
                opt.zero_grad()
                F.cross_entropy(model(x.to(dtype)).float(), y).backward()
                opt.step()
    return [f.code for f in guard.findings]


class Careful(torch.optim.AdamW):
    """AdamW whose new bfloat16 weights are rounded at random, or keep what rounding lost."""

    def __init__(self, parameters: Any, lr: float, way: str) -> None:
        super().__init__(parameters, lr=lr, weight_decay=0.0)
        self.way = way

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        held = [p for group in self.param_groups for p in group["params"]]
        coarse = [p.detach().clone() for p in held]
        exact = []
        for p in held:
            lost = self.state[p].pop("lost", torch.zeros_like(p, dtype=torch.float32))
            exact.append(p.detach().float() + lost)
        super().step()
        for p, old, start in zip(held, coarse, exact, strict=True):
            state = self.state[p]
            one, two = self.param_groups[0]["betas"]
            mean = state["exp_avg"].float() / (1 - one ** state["step"])
            root = (state["exp_avg_sq"].float() / (1 - two ** state["step"])).sqrt() + 1e-8
            wanted = (start if self.way == "kahan" else old.float()) - self.param_groups[0]["lr"] * mean / root
            if self.way == "random":
                bits = wanted.view(torch.int32) + torch.randint(0, 1 << 16, wanted.shape, dtype=torch.int32)
                p.copy_((bits & -65536).view(torch.float32).to(p.dtype))
            else:
                p.copy_(wanted.to(p.dtype))
                state["lost"] = wanted - p.float()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.AdamW])
def test_updates_that_vanish(dtype: torch.dtype, make: Any) -> None:
    rate = 4e-5 if dtype is torch.bfloat16 else 5e-6
    eps = 1e-8 if dtype is torch.bfloat16 else 1e-4
    assert staged((dtype, lambda p: make(p, lr=rate, eps=eps))) == ["P4"]


class Quiet(torch.optim.Optimizer):
    """Scales gradients like RMSprop, and keeps what does not say so. `way`: how new bfloat16 weights are rounded."""

    def __init__(self, parameters: Any, lr: float, way: str) -> None:
        super().__init__(parameters, {"lr": lr})
        self.way = way

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for p in (p for group in self.param_groups for p in group["params"]):
            state, pull = self.state[p], p.grad.float()
            state["second"] = 0.9 * state.get("second", pull.square()) + 0.1 * pull.square()
            start = state.get("master", p.float()) if self.way == "masters" else p.float()
            wanted = state["master"] = start - self.param_groups[0]["lr"] * pull / (state["second"].sqrt() + 1e-8)
            if self.way == "random":
                bits = wanted.view(torch.int32) + torch.randint(0, 1 << 16, wanted.shape, dtype=torch.int32)
                wanted = (bits & -65536).view(torch.float32)
            p.copy_(wanted.to(p.dtype))


def test_updates_that_vanish_in_an_optimizer_of_another_kind() -> None:
    assert staged((torch.bfloat16, lambda p: torch.optim.RMSprop(p, lr=4e-5))) == ["P4"]
    assert staged((torch.bfloat16, lambda p: Quiet(p, 4e-5, "nearest"))) == ["P4"]


def test_updates_that_vanish_where_they_are_shares_of_the_weights() -> None:
    assert staged((torch.bfloat16, lambda p: torch.optim.Adafactor(p, lr=1e-4))) == ["P4"]
    assert staged((torch.bfloat16, lambda p: torch.optim.Adafactor(p, lr=0.05))) == []


@pytest.mark.parametrize("way", ["random", "masters"])
def test_updates_of_another_kind_that_arrive_in_time(way: str) -> None:
    assert staged((torch.bfloat16, lambda p: Quiet(p, 4e-5, way))) == []


def test_updates_of_another_kind_that_arrive() -> None:
    assert staged((torch.bfloat16, lambda p: torch.optim.RMSprop(p, lr=1e-3))) == []
    assert staged((torch.bfloat16, lambda p: torch.optim.Adagrad(p, lr=1e-2))) == []


@pytest.mark.parametrize("way", ["random", "kahan"])
def test_updates_that_arrive_in_time(way: str) -> None:
    assert staged((torch.bfloat16, lambda p: Careful(p, 4e-5, way))) == []


def test_updates_that_vanish_and_go_no_one_way() -> None:
    """Half as large as what would be lost for sure, to and fro: weights move far more seldom than they should."""
    assert staged((torch.bfloat16, lambda p: torch.optim.AdamW(p, lr=1e-4)), noise=1.0) == ["P4"]
    assert staged((torch.bfloat16, lambda p: Careful(p, 1e-4, "random")), noise=1.0) == []
    assert staged((torch.bfloat16, lambda p: Careful(p, 1e-4, "kahan")), noise=1.0) == []


@pytest.mark.parametrize("rate", [1e-2, 1e-3])
def test_updates_that_arrive(rate: float) -> None:
    assert staged((torch.bfloat16, lambda p: torch.optim.AdamW(p, lr=rate))) == []


def test_float32_weights_under_autocast() -> None:
    model = net()
    opt = torch.optim.AdamW(model.parameters(), lr=1e-5)
    with sightline.attach(model, opt, on_finding=None) as guard:
        for _ in range(40):
            x, y = batch()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = F.cross_entropy(model(x), y)
            opt.zero_grad()
            loss.backward()
            opt.step()
    assert guard.findings == ()


def adam(rate: float) -> Callable[[Any], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1e-3)


FULL, HALF = torch.float32, torch.bfloat16


@pytest.mark.parametrize(
    "stages",
    [((FULL, adam(1e-3)), (HALF, adam(4e-5))), ((HALF, adam(1e-2)), (HALF, adam(4e-5))), ((FULL, sgd), (HALF, None))],
    ids=["another format", "another rate", "the same optimizer"],
)
def test_updates_that_vanish_in_a_later_stage(stages: Any) -> None:
    assert staged(*stages) == ["P4"]


@pytest.mark.parametrize(
    "stages", [((FULL, adam(1e-3)), (HALF, adam(1e-2))), ((HALF, adam(1e-2)), (FULL, adam(4e-5)))], ids=["to", "from"]
)
def test_updates_that_arrive_in_a_later_stage(stages: Any) -> None:
    assert staged(*stages) == []
