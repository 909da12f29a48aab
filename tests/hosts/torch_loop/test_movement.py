"""T1 through the door: steps that stop working, gradients cleared too soon, new heads that stay as they were made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sightline
from sightline.guard.catalogue import load, page

RULE = torch.randn(12, 4, generator=torch.Generator().manual_seed(3))
T1 = load((page("T1"),))
Loop = Callable[[nn.Module, torch.optim.Optimizer, int], Any]


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 4))


def rows() -> tuple[Tensor, Tensor]:
    x = torch.randn(32, 12)
    return x, (x @ RULE).argmax(1)


def watched(model: nn.Module, opt: torch.optim.Optimizer, loop: Loop, steps: int = 40) -> list[str]:
    with sightline.attach(model, opt, on_finding=None, checks=T1) as guard:
        for number in range(steps):
            loop(model, opt, number)
    return [f"{finding.code} {finding.fix}" for finding in guard.findings]


def learn(model: nn.Module, opt: torch.optim.Optimizer, number: int) -> None:
    x, y = rows()
    opt.zero_grad()
    F.cross_entropy(model(x), y).backward()
    opt.step()


class Replayed(torch.optim.SGD):
    """Remembers what it updated first after `calls` steps, and updates that for ever after."""

    def __init__(self, parameters: Any, lr: float, forget: int) -> None:
        super().__init__(parameters, lr=lr)
        self.forget, self.calls = forget, 0

    def step(self, closure: Any = None) -> None:
        self.calls += 1
        if self.calls < self.forget:
            super().step()


@pytest.mark.parametrize("forget", [1, 7, 24])
def test_a_step_that_stops_working(forget: int) -> None:
    torch.manual_seed(0)
    model = net()
    (found,) = watched(model, Replayed(model.parameters(), 0.1, forget), learn)
    assert found.startswith("T1")


def test_parameters_that_are_replaced_under_the_optimizer() -> None:
    def loop(model: nn.Module, opt: torch.optim.Optimizer, number: int) -> None:
        if number == 12:  # loaded by assignment: the optimizer goes on with the old tensors
            model.load_state_dict({name: value.clone() for name, value in model.state_dict().items()}, assign=True)
        learn(model, opt, number)

    torch.manual_seed(0)
    model = net()
    (found,) = watched(model, torch.optim.Adam(model.parameters()), loop)
    assert found.startswith("T1 make the optimizer")


@pytest.mark.parametrize("to_none", [True, False])
@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW])
def test_zero_grad_between_backward_and_step(to_none: bool, make: Any) -> None:
    def loop(model: nn.Module, opt: torch.optim.Optimizer, number: int) -> None:
        x, y = rows()
        F.cross_entropy(model(x), y).backward()
        opt.zero_grad(set_to_none=to_none)
        opt.step()

    torch.manual_seed(0)
    model = net()
    found = watched(model, make(model.parameters(), lr=0.01), loop, 16)
    assert [f[:18] for f in found] == ["T1 call zero_grad("]


# --- what looks like it and is none -------------------------------------------------------------------------------


def some_bad_batches(model: nn.Module, opt: torch.optim.Optimizer, number: int) -> None:
    x, y = rows()
    opt.zero_grad()
    if number % 10 < 5:  # half of the batches are dropped, the step is called all the same
        F.cross_entropy(model(x), y).backward()
    opt.step()


def rate_at_zero(model: nn.Module, opt: torch.optim.Optimizer, number: int) -> None:
    opt.param_groups[0]["lr"] = 0.1 if number < 20 else 0.0
    learn(model, opt, number)


def satisfied_margin(model: nn.Module, opt: torch.optim.Optimizer, number: int) -> None:
    x = torch.ones(4, 12)
    opt.zero_grad()
    F.multi_margin_loss(model(x), torch.zeros(4, dtype=torch.long), margin=0.1).backward()
    opt.step()


def rare_steps(model: nn.Module, opt: torch.optim.Optimizer, number: int) -> None:
    x, y = rows()
    (F.cross_entropy(model(x), y) / 4).backward()
    if number % 4 == 3:
        opt.step()
        opt.zero_grad()


def searched(model: nn.Module, opt: torch.optim.Optimizer, number: int) -> None:
    x = torch.eye(12)[:8]

    def closure() -> Tensor:
        opt.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        return loss

    opt.step(closure)


class ByData(torch.optim.Optimizer):
    """Writes where torch does not count."""

    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.data.add_(p.grad.data, alpha=-group["lr"])


@pytest.mark.parametrize(
    ("loop", "make"),
    [
        (learn, lambda p: torch.optim.SGD(p, lr=0.1)),
        (learn, lambda p: ByData(p, 0.1)),
        (some_bad_batches, lambda p: torch.optim.Adam(p, lr=1e-3)),
        (rate_at_zero, lambda p: torch.optim.SGD(p, lr=0.1)),
        (satisfied_margin, lambda p: torch.optim.SGD(p, lr=0.1)),
        (rare_steps, lambda p: torch.optim.AdamW(p)),
        (searched, lambda p: torch.optim.LBFGS(p, lr=1.0, line_search_fn="strong_wolfe")),
    ],
)
def test_steps_of_honest_loops(loop: Loop, make: Any) -> None:
    torch.manual_seed(0)
    model = net()
    assert watched(model, make(model.parameters()), loop, 80) == []


# --- heads --------------------------------------------------------------------------------------------------------


class Pictures(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2))
        self.norm, self.out = nn.BatchNorm2d(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(self.body(x)).relu().mean((2, 3)))


def look(model: nn.Module, *optimizers: torch.optim.Optimizer, steps: int = 24) -> list[str]:
    palette = torch.rand(10, 3, 1, 1)
    with sightline.attach(model, optimizers[0], on_finding=None, checks=T1) as guard:
        for _ in range(steps):
            y = torch.randint(0, 10, (32,))
            loss = F.cross_entropy(model(palette[y] + 0.1 * torch.randn(32, 3, 12, 12)), y)
            for opt in optimizers:
                opt.zero_grad()
            loss.backward()
            for opt in optimizers:
                opt.step()
    return [finding.message for finding in guard.findings]


def only(model: nn.Module, *words: str) -> list[nn.Parameter]:
    for name, p in model.named_parameters():
        p.requires_grad = any(word in name for word in words)
    return [p for p in model.parameters() if p.requires_grad]


def pretrained() -> Pictures:
    """A body that another run trained, under a head that this one made."""
    model = Pictures()
    opt, palette = torch.optim.Adam(model.parameters(), lr=1e-2), torch.rand(10, 3, 1, 1)
    for _ in range(20):
        y = torch.randint(0, 10, (32,))
        opt.zero_grad(), F.cross_entropy(model(palette[y] + torch.randn(32, 3, 12, 12)), y).backward(), opt.step()
    model.out = nn.Linear(32, 10)
    return model


@pytest.mark.parametrize(
    ("make", "learning", "found"),
    [
        (Pictures, ("norm", "body.1"), "is frozen"),
        (pretrained, ("body.3", "norm"), "is frozen"),
        (pretrained, ("body.3", "norm", "out"), ""),
        (pretrained, ("out",), ""),  # a linear probe
        (Pictures, ("out",), ""),  # random features
        (Pictures, ("norm", "body.1", "out"), ""),
        (Pictures, ("",), ""),
    ],
)
def test_which_layers_learn(make: Callable[[], Pictures], learning: tuple[str, ...], found: str) -> None:
    torch.manual_seed(0)
    model = make()
    said = look(model, torch.optim.Adam(only(model, *learning), lr=1e-2))
    assert len(said) == bool(found) and all(found in one for one in said)


def test_a_new_head_that_the_optimizer_does_not_hold() -> None:
    torch.manual_seed(0)
    model = pretrained()
    (said,) = look(model, torch.optim.Adam([*model.body.parameters(), *model.norm.parameters()], lr=1e-3))
    assert "left out" in said


def test_a_head_with_an_optimizer_of_its_own() -> None:
    torch.manual_seed(0)
    model = pretrained()
    body = torch.optim.Adam([*model.body.parameters(), *model.norm.parameters()], lr=1e-3)
    assert look(model, body, torch.optim.SGD(model.out.parameters(), lr=0.1)) == []


class Adapted(nn.Module):
    """Low-rank updates of frozen layers, the last one too."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__()
        self.plain, self.down = plain.requires_grad_(False), nn.Linear(plain.in_features, 2, bias=False)
        self.up = nn.Linear(2, plain.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.plain(x) + self.up(self.down(x))


def adapted() -> nn.Module:
    return nn.Sequential(Adapted(nn.Linear(12, 32)), nn.LayerNorm(32), nn.ReLU(), Adapted(nn.Linear(32, 4)))


def prompted() -> nn.Module:
    """A learned shift of the input before a frozen network."""

    class Prompt(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift, self.rest = nn.Parameter(torch.zeros(12)), net().requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            return self.rest(x + self.shift)

    return Prompt()


def distilled() -> nn.Module:
    """A frozen random network, imitated by one beside it."""

    class Curiosity(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.learner, self.target = net(), net().requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            return self.learner(x) - self.target(x)

    return Curiosity()


@pytest.mark.parametrize("make", [adapted, prompted, distilled])
def test_frozen_output_layers_of_honest_loops(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = make()
    opt = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    assert watched(model, opt, learn) == []


def in_a_game(freezes: str) -> Loop:
    """The model judges; while the other half learns, it is frozen."""

    maker = nn.Linear(4, 12)
    other = torch.optim.SGD(maker.parameters(), lr=0.05)

    def loop(model: nn.Module, opt: torch.optim.Optimizer, number: int) -> None:
        if freezes == "each turn":
            model.requires_grad_(True)
        loss = F.softplus(-model(rows()[0])).mean() + F.softplus(model(maker(torch.randn(32, 4)).detach())).mean()
        opt.zero_grad()
        if loss.requires_grad:
            loss.backward()
        opt.step()
        model.requires_grad_(freezes == "never")
        other.zero_grad()
        F.softplus(-model(maker(torch.randn(32, 4)))).mean().backward()
        other.step()

    return loop


def test_a_judge_that_is_frozen_for_good_after_the_first_turn() -> None:
    torch.manual_seed(0)
    for freezes in ("once", "each turn", "never"):
        model = net()
        found = watched(model, torch.optim.SGD(model.parameters(), lr=0.05), in_a_game(freezes))
        assert [one[:25] for one in found] == (["T1 set requires_grad to T"] if freezes == "once" else [])
