"""P5 and P6 through the door: models of other people's making, ordinary ones first."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sightline

pytestmark = pytest.mark.slow  # many settings of rules that quick tests prove in one


class Describer(nn.Module):
    """Sees with `eye`, speaks with `mouth`; nothing is called vision or language."""

    def __init__(self, brightness: float = 1.0, gate: float | None = None) -> None:
        super().__init__()
        self.brightness = brightness
        self.eye = nn.Sequential(nn.Conv2d(3, 48, 4, 4), nn.SiLU(), nn.Conv2d(48, 48, 1))
        self.nerve = nn.Linear(48, 48)
        self.words = nn.Embedding(30, 48)
        self.mouth = nn.ModuleList(nn.Linear(48, 48) for _ in range(2))
        self.say = nn.Linear(48, 30)
        self.lid = None if gate is None else nn.Parameter(torch.tensor(gate))

    def forward(self, said: torch.Tensor, scene: torch.Tensor) -> torch.Tensor:
        seen = self.nerve(self.eye(scene).mean((2, 3))) * self.brightness
        seen = seen if self.lid is None else seen * self.lid.tanh()
        x = self.words(said) + seen[:, None]
        for part in self.mouth:
            x = x + part(x).relu()
        return self.say(x)


def describe(
    model: Describer, make: Callable[..., torch.optim.Optimizer], steps: int = 20, budget: float = 0.02
) -> tuple:
    opt = make(model.parameters())
    with sightline.attach(model, opt, on_finding=None, budget=budget) as guard:
        for _ in range(steps):
            text = torch.randint(0, 30, (4, 6))
            loss = F.cross_entropy(model(text[:, :-1], torch.rand(4, 3, 8, 8)).flatten(0, 1), text[:, 1:].flatten())
            opt.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            opt.step()
    return tuple(finding.code for finding in guard.findings)


def adam(rate: float) -> Callable[..., torch.optim.Optimizer]:
    return lambda parameters: torch.optim.Adam(parameters, lr=rate)


def test_features_divided_by_255_twice() -> None:
    torch.manual_seed(0)
    assert describe(Describer(brightness=1 / 255**2), adam(1e-4)) == ("P5",)


@pytest.mark.parametrize("gate", [None, 0.0, 0.01])
@pytest.mark.parametrize("rate", [1e-3, 1e-5])
@pytest.mark.parametrize("budget", [0.02, 1.0])
def test_towers_that_meet_at_ordinary_scale_or_behind_a_gate(gate: float | None, rate: float, budget: float) -> None:
    torch.manual_seed(0)
    assert describe(Describer(gate=gate), adam(rate), budget=budget) == ()


class Tower(nn.Module):
    """A deep stack of bare matrices."""

    def __init__(self, depth: int, gain: float, bend: Callable[[torch.Tensor], torch.Tensor], skip: bool) -> None:
        super().__init__()
        self.ws = nn.ParameterList(torch.randn(24, 24) * gain / 24**0.5 for _ in range(depth))
        self.v = nn.Parameter(torch.randn(24, 3) / 24**0.5)
        self.bend, self.skip = bend, skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for w in self.ws:
            new = self.bend(x @ w)
            x = F.layer_norm(x + new, (24,)) if self.skip else new
        return x @ self.v


def climb(tower: nn.Module, make: Callable[..., torch.optim.Optimizer], steps: int = 8) -> list[tuple[str, str]]:
    opt = make(tower.parameters())
    with sightline.attach(tower, opt, on_finding=None) as guard:
        for _ in range(steps):
            opt.zero_grad()
            F.cross_entropy(tower(torch.randn(16, 24)), torch.randint(0, 3, (16,))).backward()
            opt.step()
    return [(finding.code, finding.message) for finding in guard.findings]


@pytest.mark.parametrize("make", [lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), adam(1e-3)], ids=["SGD", "Adam"])
def test_sigmoids_one_upon_another(make: Callable[..., torch.optim.Optimizer]) -> None:
    torch.manual_seed(0)
    ((code, message),) = climb(Tower(14, 1.0, torch.sigmoid, skip=False), make)
    assert code == "P6" and "vanish" in message and "ws." in message
    assert climb(Tower(14, 1.0, torch.sigmoid, skip=True), make) == []


def test_matrices_that_multiply_what_passes() -> None:
    torch.manual_seed(0)
    found = dict(climb(Tower(10, 12.0, torch.relu, skip=False), adam(1e-3)))
    assert found.keys() == {"P6", "T7"} and "explode" in found["P6"]  # and its first loss is far off
    assert climb(Tower(10, 2**0.5, torch.relu, skip=False), adam(1e-3)) == []


def transformer(scale: float | None) -> nn.Module:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.mix = nn.LayerNorm(24), nn.MultiheadAttention(24, 2, batch_first=True)
            self.scale = nn.Parameter(torch.full((24,), scale)) if scale is not None else 1.0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.before(x)
            return x + self.scale * self.mix(h, h, h, need_weights=False)[0]

    return nn.Sequential(
        nn.Unflatten(1, (6, 4)), nn.Linear(4, 24), *(Block() for _ in range(12)), nn.Flatten(), nn.Linear(144, 3)
    )


@pytest.mark.parametrize("scale", [None, 1e-6, 0.0], ids=["plain", "layer scale", "starts at zero"])
@pytest.mark.parametrize(
    "make", [adam(1e-3), adam(1e-5), lambda p: torch.optim.SGD(p, 0.01)], ids=["1e-3", "1e-5", "SGD"]
)
def test_deep_transformers_are_ordinary(scale: float | None, make: Callable[..., torch.optim.Optimizer]) -> None:
    torch.manual_seed(0)
    assert climb(transformer(scale), make, steps=20) == []


def test_a_deep_convolutional_net_with_batch_norm_is_ordinary() -> None:
    torch.manual_seed(0)
    parts = [part for _ in range(16) for part in (nn.Conv1d(4, 4, 3, padding=1), nn.BatchNorm1d(4), nn.ReLU())]
    net = nn.Sequential(nn.Unflatten(1, (4, 6)), *parts, nn.Flatten(), nn.Linear(24, 3))
    assert climb(net, lambda p: torch.optim.SGD(p, 0.05, momentum=0.9), steps=20) == []


def test_low_rank_adapters_start_at_zero() -> None:
    class Adapted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frozen = nn.Linear(24, 24).requires_grad_(False)
            self.down, self.up = nn.Linear(24, 4, bias=False), nn.Linear(4, 24, bias=False)
            nn.init.zeros_(self.up.weight)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.frozen(x) + self.up(self.down(x))

    torch.manual_seed(0)
    net = nn.Sequential(Adapted(), nn.GELU(), Adapted(), nn.GELU(), nn.Linear(24, 3))
    for make in (adam(1e-4), lambda p: torch.optim.SGD(p, 1e-5)):
        learning = [p for p in net.parameters() if p.requires_grad]
        assert climb(net, lambda _, make=make, learning=learning: make(learning), steps=20) == []
