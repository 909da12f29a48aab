"""Loops that move their tensors themselves: watched, as any other; and loops that only ask for gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sightline.attach.script.by_hand import ByHand
from sightline.attach.script.loss.roots import Losses
from sightline.attach.script.scout import Scout
from sightline.attach.script.watch import Models
from sightline.guard.check import Finding

pytestmark = pytest.mark.usefixtures("origins")
Loop = Callable[[bool], object]


def net(outputs: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, outputs))


def loss_of(model: Callable[[Tensor], Tensor]) -> Tensor:
    x = torch.randn(32, 8)
    return F.cross_entropy(model(x), x[:, :3].argmax(1))


@torch.no_grad()
def down(parameters: Iterable[Tensor], rate: float = 0.05) -> None:
    for p in parameters:
        if p.grad is not None:
            p -= rate * p.grad


def module(faulty: bool) -> None:
    model = net()
    for _ in range(16):
        if not faulty:
            model.zero_grad()
        loss_of(model).backward()
        down(model.parameters())


def tensors(faulty: bool) -> None:
    """As books write it: through ``.data``, whose writes torch does not count."""
    weight, bias = (torch.randn(8, 3) * 0.1).requires_grad_(), torch.zeros(3, requires_grad=True)
    for _ in range(16):
        loss_of(lambda x: x @ weight + bias).backward()
        for p in (weight, bias):
            assert p.grad is not None
            p.data -= 0.05 * p.grad
            if not faulty:
                p.grad.data.zero_()


class Adam:
    """Written anew, and no optimizer of torch."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.held, self.count = list(parameters), 0
        self.first, self.second = ([torch.zeros_like(p) for p in self.held] for _ in range(2))

    @torch.no_grad()
    def step(self) -> None:
        self.count += 1
        for p, m, v in zip(self.held, self.first, self.second, strict=True):
            assert p.grad is not None
            m.lerp_(p.grad, 0.1)
            v.lerp_(p.grad.square(), 0.001)
            p.sub_(0.01 * m / (1 - 0.9**self.count) / ((v / (1 - 0.999**self.count)).sqrt() + 1e-8))


def accumulated(faulty: bool) -> None:
    model = net()
    own = Adam(model.parameters())
    for _ in range(16):
        for _ in range(2):
            (loss_of(model) / 2).backward()
        own.step()
        if not faulty:
            for p in own.held:
                p.grad = None


def game(faulty: bool) -> None:
    """Two networks take turns; the judge's gradients are left over from the other's turn."""
    maker, judge = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2)), nn.Linear(2, 1)
    for _ in range(16):
        made = maker(torch.randn(32, 4))
        if not faulty:
            judge.zero_grad()
        (F.softplus(-judge(torch.randn(32, 2) + 2)) + F.softplus(judge(made.detach()))).mean().backward()
        down(judge.parameters())
        maker.zero_grad()
        F.softplus(-judge(made)).mean().backward()
        down(maker.parameters())


def momentum_in_the_gradient(_: bool) -> None:
    model = net()
    for _ in range(16):
        loss_of(model).backward()
        down(model.parameters(), 0.02)
        for p in model.parameters():
            assert p.grad is not None
            p.grad *= 0.9


def an_output_layer_alone(_: bool) -> None:
    """What is behind it has gradients, and is meant to stay as it is."""
    model = net()
    for _ in range(32):
        model.zero_grad()
        loss_of(model).backward()
        down(model[2].parameters())


def an_image_that_excites(_: bool) -> None:
    """Uphill. The gradients of the model pile up, and nobody uses them."""
    model, image = net(), torch.zeros(1, 8, requires_grad=True)
    for _ in range(24):
        model(image)[0, 1].backward()
        assert image.grad is not None
        with torch.no_grad():
            image += 0.1 * image.grad / image.grad.norm()
            image.grad.zero_()


def gradients_of_many_inits(_: bool) -> None:
    model = net()
    for _ in range(24):
        for layer in (model[0], model[2]):
            layer.reset_parameters()
        loss_of(model).backward()


def watched(loop: Loop, faulty: bool) -> tuple[list[Finding], list[int]]:
    """Findings, and the steps that were counted of each model."""
    torch.manual_seed(0)
    problems: list[str] = []
    found: list[Finding] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.autograd, "backward", torch.autograd.backward)
        patch.setattr(torch.amp.GradScaler, "scale", torch.amp.GradScaler.scale)
        models = Models(1.0, found.append, problems.append)
        Losses(models, problems.append).install()
        ByHand(models, Scout(models, problems.append), problems.append).install()
        loop(faulty)
        models.close_all(whole=True)
    assert not problems
    return found, [one.steps for one in models.watched]


@pytest.mark.parametrize("loop", [module, tensors, accumulated, game])
def test_gradients_that_are_never_cleared_are_found(loop: Loop) -> None:
    found, steps = watched(loop, True)
    assert {finding.code for finding in found} == {"T2"} and all(10 <= count <= 16 for count in steps)
    assert watched(loop, False)[0] == []


@pytest.mark.parametrize(
    "loop", [momentum_in_the_gradient, an_output_layer_alone, an_image_that_excites, gradients_of_many_inits]
)
def test_loops_that_are_meant_so_are_left_alone(loop: Loop) -> None:
    assert watched(loop, False)[0] == []


def test_nothing_is_watched_that_only_has_gradients() -> None:
    assert watched(gradients_of_many_inits, False)[1] == []


def test_where_an_optimizer_is_made_nobody_listens() -> None:
    plain, models = torch.autograd.backward, Models(1.0, lambda _: None, pytest.fail)
    scout = Scout(models, pytest.fail)
    ByHand(models, scout, pytest.fail).install()
    assert torch.autograd.backward is not plain
    for told in scout.made:
        told(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1))
    models.close_all(whole=True)
    assert torch.autograd.backward is plain
