"""A term of the loss whose parameters no optimizer was given; and terms and parts that are meant to be as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sightline
from sightline.attach.script.loss.terms import LATER, Terms
from sightline.guard.catalogue import load, page

pytestmark = pytest.mark.usefixtures("origins")
Loss = Callable[[Tensor], Tensor]
Moves = Callable[[], object]
Case = tuple[nn.Module, Iterable[nn.Parameter], Loss, Moves]


def net(outputs: int = 2) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, outputs))


def policy_loss(actor: nn.Module, x: Tensor) -> Tensor:
    return F.cross_entropy(actor(x), (x[:, 0] > 0).long())


def critic(held: bool) -> Case:
    actor, value = net(), net(1)
    learning = [*actor.parameters(), *(value.parameters() if held else ())]
    return actor, learning, lambda x: policy_loss(actor, x) + 0.5 * value(x).sub(x[:, :1]).pow(2).mean(), lambda: None


def weights(held: bool) -> Case:
    """Two tasks, whose weights are to be learned with them."""
    model, logs = net(4), nn.Parameter(torch.zeros(2))

    def loss(x: Tensor) -> Tensor:
        out = model(x)
        tasks = torch.stack([out[:, :2].sub(x[:, :2]).pow(2).mean(), out[:, 2:].sub(x[:, 2:4]).pow(2).mean()])
        return (tasks * torch.exp(-logs)).sum() + logs.sum()

    return model, [*model.parameters(), *((logs,) if held else ())], loss, lambda: None


def stacked(held: bool) -> Case:
    actor, value = net(), net(1)
    learning = [*actor.parameters(), *(value.parameters() if held else ())]
    return actor, learning, lambda x: torch.stack([policy_loss(actor, x), -value(x).mean()]).mean() / 2, lambda: None


def two_optimizers() -> Case:
    actor, learning, _, _ = critic(held=False)
    value = net(1)
    other = torch.optim.SGD(value.parameters(), lr=0.1)
    return actor, learning, lambda x: policy_loss(actor, x) + value(x).pow(2).mean(), other.step


def by_hand() -> Case:
    actor, value = net(), net(1)

    def move() -> None:
        with torch.no_grad():
            for p in value.parameters():
                p -= 0.1 * p.grad

    return actor, actor.parameters(), lambda x: policy_loss(actor, x) + value(x).sub(1).pow(2).mean(), move


def perceptual() -> Case:
    """A network that nobody froze compares; it is in no optimizer, on purpose."""
    model, compare = net(6), net(4)
    return (
        model,
        model.parameters(),
        lambda x: model(x).sub(x).pow(2).mean() + compare(model(x)).sub(compare(x)).pow(2).mean(),
        lambda: None,
    )


def random_target() -> Case:
    guess, target = net(), net()
    return guess, guess.parameters(), lambda x: policy_loss(guess, x) + F.mse_loss(guess(x), target(x)), lambda: None


def probe() -> Case:
    """Features that nobody froze, and a head."""
    body, head = net(8), nn.Linear(8, 2)
    whole = nn.Sequential(body, head)
    return whole, head.parameters(), lambda x: policy_loss(whole, x) + 1e-3 * head.weight.pow(2).sum(), lambda: None


def findings(case: Case) -> list[str]:
    model, learning, loss_of, move = case
    opt = torch.optim.SGD(learning, lr=0.05)
    listener = Terms()
    with sightline.attach(model, opt, on_finding=None, budget=1.0, checks=load((page("T1"),))) as guard:
        for _ in range(LATER + 6):
            loss = loss_of(torch.randn(8, 6))
            listener.look(loss, guard._recorder)
            opt.zero_grad()
            loss.backward()
            opt.step()
            move()
    return [one.message for one in guard.findings]


@pytest.mark.parametrize("case", [critic, weights, stacked])
def test_a_term_that_teaches_nothing(case: Callable[..., Case]) -> None:
    torch.manual_seed(0)
    (found,) = findings(case(held=False))
    assert found.startswith("a term of the loss hangs on")
    assert findings(case(held=True)) == []


def head(held: bool) -> Case:
    """In a variable of its own."""
    body, last = net(8), nn.Linear(8, 2)
    learning = [*body.parameters(), *(last.parameters() if held else ())]
    return body, learning, lambda x: F.cross_entropy(last(body(x)), (x[:, 0] > 0).long()), lambda: None


def margin(held: bool) -> Case:
    """A loss with weights."""
    model, centres = net(8), nn.Embedding(2, 8)

    def loss(x: Tensor) -> Tensor:
        cosines = F.linear(F.normalize(model(x)), F.normalize(centres.weight))
        return F.cross_entropy(8 * cosines, (x[:, 0] > 0).long())

    return model, [*model.parameters(), *(centres.parameters() if held else ())], loss, lambda: None


@pytest.mark.parametrize("case", [head, margin])
def test_weights_between_the_model_and_the_loss(case: Callable[..., Case]) -> None:
    torch.manual_seed(0)
    (found,) = findings(case(held=False))
    assert "between the model and the loss" in found
    assert findings(case(held=True)) == []


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.kind, self.size = nn.Linear(6, 16), nn.Linear(16, 2), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        inner = torch.tanh(self.body(x))
        return self.kind(inner), self.size(inner)[:, 0]


def heads(how: Callable[[Tensor], Tensor | float]) -> Case:
    """`how` the loss of the second head comes into the sum."""
    model = Heads()

    def loss(x: Tensor) -> Tensor:
        kind, size = model(x)
        return F.cross_entropy(kind, (x[:, 0] > 0).long()) + how(F.mse_loss(size, x[:, 1]))

    return model, model.parameters(), loss, lambda: None


def test_a_number_that_is_made_a_tensor_again() -> None:
    torch.manual_seed(0)
    (found,) = findings(heads(lambda term: 2.0 * torch.tensor(term.item(), requires_grad=True)))
    assert "never moved" in found and "size.weight" in found


@pytest.mark.parametrize(
    "how",
    [
        lambda term: torch.tensor(0.0, requires_grad=True) + term,
        lambda term: torch.tensor(1.0, requires_grad=True) - 0.0 * term,
        lambda term: term + 2.0 * torch.tensor(term.item(), requires_grad=True),
        lambda term: term.item(),
    ],
    ids=["a sum that begins with 0", "a constant", "all moves", "a plain number"],
)
def test_numbers_that_are_meant(how: Callable[[Tensor], Tensor | float]) -> None:
    torch.manual_seed(0)
    assert not any("new tensor" in one for one in findings(heads(how)))


@pytest.mark.parametrize("case", [two_optimizers, by_hand, perceptual, random_target, probe])
def test_what_is_meant(case: Callable[[], Case]) -> None:
    torch.manual_seed(0)
    assert findings(case()) == []
