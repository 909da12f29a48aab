"""T1 through the door: parameters that no optimizer holds, by accident or on purpose, and losses cut off from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sightline
from sightline.guard.catalogue import load, page

T1 = load((page("T1"),))
STEPS = 24


class Towers(nn.Module):
    """Two towers that are compared, and a body in front of both. `kept`: how further layers are kept."""

    def __init__(self, kept: Callable[[Sequence[nn.Module]], object] | None = None) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 32), nn.Tanh())
        self.query = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 16))
        self.answer = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 16))
        layers = [nn.Linear(16, 16), nn.Linear(16, 16)] if kept else []
        self.extra = kept(layers) if kept else layers

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        q, a = self.query(self.body(x)), self.answer(self.body(y))
        for layer in self.extra.values() if isinstance(self.extra, dict) else self.extra:  # type: ignore[union-attr]
            q = q + layer(q)
        return q @ a.T


def found(
    model: Towers, held: Iterable[nn.Parameter], cut: Callable[[Tensor], Tensor] = lambda loss: loss
) -> list[str]:
    optimizer = torch.optim.Adam(held, lr=1e-3)
    with sightline.attach(model, optimizer, on_finding=None, checks=T1) as guard:
        for _ in range(STEPS):
            x = torch.randn(16, 8)
            loss = cut(F.cross_entropy(model(x, x + 0.1 * torch.randn(16, 8)), torch.arange(16)))
            model.zero_grad()
            loss.backward()
            optimizer.step()
    return [f"{f.severity}: {f.message}" for f in guard.findings]


def test_a_tower_that_was_left_out() -> None:
    torch.manual_seed(0)
    model = Towers()
    (said,) = found(model, [*model.body.parameters(), *model.query.parameters()])
    assert said.startswith("warning: 4 parameters (1,584 elements)") and "answer.0.weight" in said
    assert found(model, model.parameters()) == []


def test_a_body_is_left_out_on_purpose() -> None:
    model = Towers()
    assert found(model, [*model.query.parameters(), *model.answer.parameters()]) == []


def test_a_tower_that_was_trained_before_is_left_out_on_purpose() -> None:
    model = Towers()
    with torch.no_grad():
        for p in model.answer.parameters():
            p.mul_(1.5)
    assert found(model, [*model.body.parameters(), *model.query.parameters()]) == []


def test_what_took_the_place_of_parameters_that_the_optimizer_holds() -> None:
    model = Towers()
    held = list(model.parameters())
    model.answer[2] = nn.Linear(32, 16)
    (said,) = found(model, held)
    assert said.startswith("error: 2 parameters (528 elements)") and "answer.2.weight" in said


@pytest.mark.parametrize("kept", [list, tuple, lambda layers: dict(enumerate(layers))], ids=["list", "tuple", "dict"])
def test_layers_in_a_plain_container(kept: Callable[[Sequence[nn.Module]], object]) -> None:
    model = Towers(kept)
    (said,) = found(model, model.parameters())
    assert said.startswith("error: extra keeps 4 parameters in a plain container")


def test_layers_that_the_model_or_the_optimizer_knows() -> None:
    model = Towers(nn.ModuleList)
    assert found(model, model.parameters()) == []
    model = Towers(list)
    assert found(model, [*model.parameters(), *(p for layer in model.extra for p in layer.parameters())]) == []


def test_a_frozen_teacher_in_a_list_is_hidden_on_purpose() -> None:
    model = Towers(list)
    for layer in model.extra:
        layer.requires_grad_(False)
    assert found(model, model.parameters()) == []
    model = Towers(lambda layers: [layer.eval() for layer in layers])
    assert found(model, model.parameters()) == []


@pytest.mark.parametrize(
    "cut", [lambda loss: torch.tensor(loss.item(), requires_grad=True), lambda loss: loss.detach().requires_grad_()]
)
def test_a_loss_that_is_cut_off(cut: Callable[[Tensor], Tensor]) -> None:
    model = Towers()
    (said,) = found(model, model.parameters(), cut)
    assert said.startswith("error: in 17 steps no parameter ever had a gradient")


class Pair(nn.Module):
    """A generator, and a critic of what it makes, in one module."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
        self.critic = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, x: Tensor, *, make: bool) -> Tensor:
        return self.critic(self.generator(x) if make else x)


@pytest.mark.parametrize(("part", "codes"), [("critic", ["T1"]), ("generator", [])])
def test_two_optimizers_for_the_same_half(part: str, codes: list[str]) -> None:
    torch.manual_seed(0)
    model, bce = Pair(), nn.BCEWithLogitsLoss()
    makes = torch.optim.Adam(getattr(model, part).parameters(), lr=1e-3)
    judges = torch.optim.Adam(model.critic.parameters(), lr=1e-3)
    with sightline.attach(model, judges, on_finding=None, checks=T1, budget=1.0) as guard:
        for _ in range(STEPS):
            real, noise = torch.randn(16, 2) + 2, torch.randn(16, 4)
            judged = bce(model(real, make=False), torch.ones(16, 1))
            fake = model.generator(noise).detach()
            judges.zero_grad()
            (judged + bce(model(fake, make=False), torch.zeros(16, 1))).backward()
            judges.step()
            makes.zero_grad()
            bce(model(noise, make=True), torch.ones(16, 1)).backward()
            makes.step()
    assert [f.code for f in guard.findings] == codes
