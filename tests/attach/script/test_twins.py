"""Two optimizers over the parameters of one network, where the other's were meant; and two that are meant to be so."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sightline.attach.script.twins import STEPS, Twins
from sightline.attach.script.watch import Models
from sightline.guard.check import Finding

pytestmark = [pytest.mark.usefixtures("origins"), pytest.mark.slow]


def net(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 16), nn.Tanh(), nn.Linear(16, outputs))


def judged(logits: Tensor, *, real: bool) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))


def findings(loop: Callable[[nn.Module, nn.Module, Callable[..., torch.optim.Optimizer]], None]) -> list[Finding]:
    """Those of T1, of a loop that trains a network, with another beside it."""
    torch.manual_seed(0)
    problems: list[str] = []
    found: list[Finding] = []
    models = Models(1.0, found.append, problems.append)
    twins, one, other = Twins(models, problems.append), net(4, 6), net(6, 1)
    watched: list[object] = []

    def make(parameters: Iterable[nn.Parameter], kind: type[torch.optim.Optimizer] = torch.optim.SGD) -> object:
        opt = kind(parameters, lr=0.05)  # type: ignore[call-arg]
        twins.made(opt)
        if not watched:
            watched.append(models.attach(one, [opt], blind=False))
        return opt

    loop(one, other, make)  # type: ignore[arg-type]
    models.close_all(whole=True)
    assert not problems
    return [found_ for found_ in found if found_.code == "T1"]


def game(*, mistaken: bool, keeps: bool = False, by_hand: bool = False) -> Callable[..., None]:
    """A generator and a critic. `keeps`: gradients are cleared network by network, so that old ones stay."""

    def loop(one: nn.Module, other: nn.Module, make: Callable[..., torch.optim.Optimizer]) -> None:
        opt, second = make(one.parameters()), make((one if mistaken else other).parameters())
        for _ in range(STEPS + 6):
            made = one(torch.randn(16, 4)).detach()
            other.zero_grad() if keeps else second.zero_grad()
            loss = judged(other(torch.randn(16, 6) + 1), real=True) + judged(other(made), real=False)
            loss.backward()
            second.step()
            if by_hand:
                with torch.no_grad():
                    for p in other.parameters():
                        assert p.grad is not None
                        p.sub_(0.05 * p.grad)
            one.zero_grad() if keeps else opt.zero_grad()
            judged(other(one(torch.randn(16, 4))), real=True).backward()
            opt.step()

    return loop


def compared(one: nn.Module, other: nn.Module, x: Tensor) -> Tensor:
    """Through a network that nobody froze."""
    return other(one(x)).sub(other(torch.ones(len(x), 6))).square().mean()


def both_at_once(one: nn.Module, other: nn.Module, make: Callable[..., torch.optim.Optimizer]) -> None:
    opts = [make(one.parameters()), make(one.parameters(), torch.optim.AdamW)]
    for _ in range(STEPS + 6):
        one.zero_grad()
        compared(one, other, torch.randn(8, 4)).backward()
        for opt in opts:
            opt.step()


def in_turns(one: nn.Module, other: nn.Module, make: Callable[..., torch.optim.Optimizer]) -> None:
    opts = [make(one.parameters()), make(one.parameters(), torch.optim.AdamW)]
    for step in range(2 * STEPS + 6):
        opts[step % 2].zero_grad(set_to_none=step % 3 == 0)
        compared(one, other, torch.randn(8, 4)).backward()
        opts[step % 2].step()


def one_after_the_other(one: nn.Module, other: nn.Module, make: Callable[..., torch.optim.Optimizer]) -> None:
    for kind in (torch.optim.Adam, torch.optim.SGD):
        opt = make(one.parameters(), kind)
        for _ in range(STEPS + 2):
            opt.zero_grad()
            compared(one, other, torch.randn(8, 4)).backward()
            opt.step()


def closures(one: nn.Module, other: nn.Module, make: Callable[..., torch.optim.Optimizer]) -> None:
    opts = [make(one.parameters()), make(one.parameters(), torch.optim.LBFGS)]
    for step in range(2 * STEPS + 6):
        x = torch.randn(8, 4)

        def again(x: Tensor = x) -> float:
            one.zero_grad()
            loss = compared(one, other, x)
            loss.backward()
            return loss.item()

        one.zero_grad()
        opts[step % 2].step(again)


def head_first(one: nn.Module, other: nn.Module, make: Callable[..., torch.optim.Optimizer]) -> None:
    """All, and a part of it with a rate of its own, whose gradients are cut off now and then."""
    every, head = make(one.parameters()), make(one[2].parameters())  # type: ignore[index]
    for step in range(STEPS + 6):
        every.zero_grad()
        compared(one, other, torch.randn(8, 4)).backward()
        every.step()
        if step % 2:
            head.zero_grad()
            other(torch.randn(8, 6)).mean().backward()
            compared(one, other, torch.randn(8, 4)).backward()
            head.step()


def critic_follows(one: nn.Module, other: nn.Module, make: Callable[..., torch.optim.Optimizer]) -> None:
    """The critic's own optimizer comes after the first steps, in which it is only looked through."""
    opt, second, third = make(one.parameters()), make(one.parameters()), None
    for step in range(STEPS + 6):
        if step == STEPS // 2:
            third = make(other.parameters())
        if third is not None:
            third.zero_grad()
        second.zero_grad()
        judged(other(torch.randn(8, 6)), real=True).backward()
        second.step()
        if third is not None:
            third.step()
        opt.zero_grad()
        compared(one, other, torch.randn(8, 4)).backward()
        opt.step()


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("keeps", [False, True])
def test_a_critic_whose_optimizer_holds_the_generator(keeps: bool, broken: bool) -> None:
    bystander = net(3, 3)  # had its gradients before, from something else
    bystander(torch.full((2, 3), math.nan if broken else 1.0)).sum().backward()
    if broken:
        nn.init.constant_(bystander[0].weight, math.nan)  # type: ignore[arg-type]
    (found,) = findings(game(mistaken=True, keeps=keeps))
    assert found.severity == "error" and "one never finds a gradient" in found.message and "Sequential" in found.message
    assert findings(game(mistaken=False, keeps=keeps)) == []
    assert findings(game(mistaken=True, keeps=keeps, by_hand=True)) == []


@pytest.mark.parametrize(
    "loop",
    [
        both_at_once,
        in_turns,
        one_after_the_other,
        head_first,
        critic_follows,
        pytest.param(closures, marks=pytest.mark.slow),
    ],
)
def test_what_is_meant(loop: Callable[..., None]) -> None:
    assert findings(loop) == []
