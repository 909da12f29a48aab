"""Loops that ask for gradients by name, and move or replace tensors themselves: their steps are heard as any."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from sightline.attach.script.by_hand import ByHand
from sightline.attach.script.loss.roots import Losses
from sightline.attach.script.scout import Scout
from sightline.attach.script.watch import Models
from sightline.guard.check import Finding

pytestmark = pytest.mark.usefixtures("origins")
Loop = Callable[[bool], object]
STEPS = 48


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 4))


def batch() -> tuple[Tensor, Tensor]:
    x = torch.randn(16, 32)
    return x, x[:, :4].argmax(1)


def functional_adam_in_bfloat16(faulty: bool) -> None:
    """New tensors each step. In the clean twin float32 weights are kept, and rounded anew."""
    model = net().bfloat16()
    params = {name: p.detach() for name, p in model.named_parameters()}
    master = {name: p.float() for name, p in params.items()}
    second = {name: torch.zeros_like(p) for name, p in master.items()}

    def objective(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(model, params, (x.bfloat16(),)).float(), y)

    step_fn = torch.func.grad_and_value(objective)
    for step in range(1, STEPS + 1):
        grads, _ = step_fn(params, *batch())
        for name, grad in grads.items():
            second[name].mul_(0.99).addcmul_(grad.float(), grad.float(), value=0.01)
            update = 1e-4 * grad.float() / ((second[name] / (1 - 0.99**step)).sqrt() + 1e-8)
            master[name] -= update
            params[name] = params[name] - update.bfloat16() if faulty else master[name].bfloat16()


def in_place_in_bfloat16(faulty: bool) -> None:
    model = net().bfloat16()
    params = list(model.parameters())
    rest = [torch.zeros_like(p, dtype=torch.float32) for p in params]  # what rounding lost
    for _ in range(STEPS):
        x, y = batch()
        grads = torch.autograd.grad(F.cross_entropy(model(x.bfloat16()).float(), y), params)
        with torch.no_grad():
            for p, grad, left in zip(params, grads, rest, strict=True):
                goal = p.float() - 2e-4 * grad.float().sign() + (0 if faulty else left)
                p.copy_(goal)
                left.copy_(goal - p.float())


def diverging(faulty: bool) -> None:
    """Plain gradient descent on a module's parameters, too fast."""
    model, goal = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4)), torch.randn(32, 4)
    x = torch.randn(32, 8)
    for _ in range(STEPS):
        grads = torch.autograd.grad((model(x) - goal).square().mean(), model.parameters())  # a generator
        with torch.no_grad():
            for p, grad in zip(model.parameters(), grads, strict=True):
                p -= (1e3 if faulty else 0.05) * grad


def diverging_on_a_list(faulty: bool) -> None:
    """Weights that are made anew, as in books of functional programming; the gradients alone are returned."""
    params = [torch.randn(8, 16) * 0.3, torch.zeros(16), torch.randn(16, 4) * 0.3]
    x, goal = torch.randn(32, 8), torch.randn(32, 4)

    def objective(params: list[Tensor]) -> Tensor:
        return (((x @ params[0] + params[1]).square() @ params[2]) - goal).square().mean()

    for _ in range(STEPS):
        grads = torch.func.grad(objective)(params)
        params = [p - (10.0 if faulty else 0.01) * grad for p, grad in zip(params, grads, strict=True)]


def slow_with_masters(_: bool) -> None:
    """Float32 weights that are rounded anew: at this rate most bfloat16 ones wait long for their first move."""
    model = net().bfloat16()
    master = [p.detach().float() for p in model.parameters()]
    for _ in range(STEPS):
        x, y = batch()
        grads = torch.autograd.grad(F.cross_entropy(model(x.bfloat16()).float(), y), list(model.parameters()))
        with torch.no_grad():
            for p, own, grad in zip(model.parameters(), master, grads, strict=True):
                own -= 3e-5 * grad.float().sign()
                p.copy_(own)


def summed_by_hand(_: bool) -> None:
    """Micro-batches whose gradients are added up beside the parameters, which keep none."""
    model = net()
    for _ in range(16):
        total = [torch.zeros_like(p) for p in model.parameters()]
        for _ in range(4):
            x, y = batch()
            grads = torch.autograd.grad(F.cross_entropy(model(x), y) / 4, list(model.parameters()))
            total = [a + b for a, b in zip(total, grads, strict=True)]
        with torch.no_grad():
            for p, grad in zip(model.parameters(), total, strict=True):
                p -= 0.1 * grad


def attack(_: bool) -> None:
    """Uphill, on pictures that are made anew; the network stays as it is."""
    model = net()
    for _ in range(4):
        x, y = batch()
        halves = [x[:8], x[8:]]
        for _ in range(10):
            halves = [half.detach().requires_grad_() for half in halves]
            grads = torch.autograd.grad(F.cross_entropy(model(torch.cat(halves)), y), halves)
            halves = [half + 0.05 * grad.sign() for half, grad in zip(halves, grads, strict=True)]


def saliency(_: bool) -> None:
    model = net()
    for _ in range(STEPS):
        x, y = batch()
        torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))


def per_sample(_: bool) -> None:
    """Inside vmap nothing has values."""
    params = {name: p.detach() for name, p in net().named_parameters()}
    model = net()

    def objective(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(model, params, (x[None],)), y[None])

    each = torch.func.vmap(torch.func.grad(objective), in_dims=(None, 0, 0))
    for _ in range(8):
        grads = each(params, *batch())
        params = {name: p - 0.01 * grads[name].mean(0) for name, p in params.items()}


def adapted(_: bool) -> None:
    """Inner loops whose steps are computed with further, begun anew for each task."""
    model = net()
    for _ in range(16):
        fast = dict(model.named_parameters())
        for _ in range(3):
            x, y = batch()
            loss = F.cross_entropy(functional_call(model, fast, (x,)), y)
            grads = torch.autograd.grad(loss, list(fast.values()), create_graph=True)
            fast = {name: p - 0.1 * grad for (name, p), grad in zip(fast.items(), grads, strict=True)}


@contextmanager
def listening(found: list[Finding]) -> Iterator[Models]:
    problems: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for where, names in ((torch.autograd, ("backward", "grad")), (torch.func, ("grad", "grad_and_value"))):
            for name in names:
                patch.setattr(where, name, getattr(where, name))
        patch.setattr(torch.amp.GradScaler, "scale", torch.amp.GradScaler.scale)
        models = Models(1.0, found.append, problems.append)
        Losses(models, problems.append).install()
        ByHand(models, Scout(models, problems.append), problems.append).install()
        yield models
        models.close_all(whole=True)
    assert not problems


def watched(loop: Loop, faulty: bool) -> tuple[list[Finding], list[int]]:
    """Findings, and the steps that were counted of each model."""
    torch.manual_seed(0)
    found: list[Finding] = []
    with listening(found) as models:
        loop(faulty)
    return found, [one.steps for one in models.watched]


@pytest.mark.parametrize(
    ("loop", "code"),
    [
        (functional_adam_in_bfloat16, "P4"),
        (in_place_in_bfloat16, "P4"),
        (diverging, "P1"),
        (diverging_on_a_list, "P1"),
    ],
)
def test_a_fault_of_the_steps_is_found(loop: Loop, code: str) -> None:
    found, steps = watched(loop, True)
    assert {finding.code for finding in found} == {code} and STEPS - 2 <= sum(steps) <= STEPS and len(steps) == 1
    assert watched(loop, False)[0] == []


@pytest.mark.parametrize("loop", [saliency, per_sample, adapted])
def test_what_only_asks_is_left_alone(loop: Loop) -> None:
    assert watched(loop, False) == ([], [])


@pytest.mark.parametrize("loop", [slow_with_masters, summed_by_hand, attack])
def test_loops_that_are_meant_so_are_left_alone(loop: Loop) -> None:
    assert watched(loop, False)[0] == []


def test_the_losses_are_heard_and_nothing_is_left_behind() -> None:
    torch.manual_seed(0)
    model, told = net(), list[float]()
    with listening([]) as models:
        for _ in range(12):
            x, y = batch()
            loss = F.cross_entropy(model(x), y)
            told.append(loss.item())
            grads = torch.autograd.grad(loss, list(model.parameters()))
            assert all(p.grad is None for p in model.parameters())
            with torch.no_grad():
                for p, grad in zip(model.parameters(), grads, strict=True):
                    p -= 0.1 * grad
        (one,) = models.live
        assert one.recorder.model is model and one.recorder.forwards > 6
        heard = [step.loss for step in one.attachment.watch._steps] if one.attachment else []
    assert len(heard) > 5 and any(a != b for a, b in pairwise(heard)) and set(heard) - {None} <= set(told)


def test_where_an_optimizer_is_made_torch_has_its_own_again() -> None:
    plain = torch.autograd.grad, torch.func.grad, torch.func.grad_and_value
    models = Models(1.0, lambda _: None, pytest.fail)
    scout = Scout(models, pytest.fail)
    ByHand(models, scout, pytest.fail).install()
    assert torch.autograd.grad is not plain[0] and torch.func.grad is not plain[1]
    for told in scout.made:
        told(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1))
    models.close_all(whole=True)
    assert (torch.autograd.grad, torch.func.grad, torch.func.grad_and_value) == plain
