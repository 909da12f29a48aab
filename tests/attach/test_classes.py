"""Classes that a loss taught, read off its gradient: which forms of cross-entropy tell, and which losses do not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from sightline.attach.classes import Taught

WEIGHTS = torch.tensor([0.3, 1.0, 2.5])
Loss = Callable[[Tensor, Tensor], Tensor]


def read(loss: Loss, outputs: int, *, scale: float = 2.0) -> tuple[tuple[int, ...] | None, list[int]]:
    """The classes that were read in the first batch of random logits, and those that were taught."""
    draw = torch.Generator().manual_seed(outputs)
    z = (scale * torch.randn(32, outputs, generator=draw)).requires_grad_()
    y = torch.randint(max(2, outputs), (32,), generator=draw)
    (grad,) = torch.autograd.grad(loss(z, y), z)
    return Taught().classes(z.detach(), grad), y.tolist()


def focal(z: Tensor, y: Tensor, *, still: bool = False, alpha: Tensor | None = None) -> Tensor:
    each = functional.cross_entropy(z, y, reduction="none")
    rest = 1 - (-each).exp()
    return ((rest.detach() if still else rest) ** 2 * each * (1 if alpha is None else alpha[y])).mean()


def binary(z: Tensor, y: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(z[:, 0], y.float(), pos_weight=torch.tensor(7.0))


TELL: dict[str, tuple[int, Loss]] = {
    "plain": (3, functional.cross_entropy),
    "class weights": (3, lambda z, y: functional.cross_entropy(z, y, weight=WEIGHTS)),
    "class weights, summed": (3, lambda z, y: functional.cross_entropy(z, y, weight=WEIGHTS, reduction="sum")),
    "own class weights": (3, lambda z, y: (functional.cross_entropy(z, y, reduction="none") * WEIGHTS[y]).mean()),
    "two classes": (2, lambda z, y: functional.cross_entropy(z, y, weight=WEIGHTS[:2])),
    "label smoothing": (3, lambda z, y: functional.cross_entropy(z, y, label_smoothing=0.1)),
    "focal": (3, focal),
    "focal, factor without gradient": (3, lambda z, y: focal(z, y, still=True)),
    "focal, alpha": (3, lambda z, y: focal(z, y, alpha=WEIGHTS)),
    "yes or no, pos_weight": (1, binary),
}


@pytest.mark.parametrize("name", TELL)
def test_forms_of_cross_entropy_tell_the_class(name: str) -> None:
    outputs, loss = TELL[name]
    seen, taught = read(loss, outputs)
    assert seen == tuple(taught)
    assert read(loss, outputs, scale=0.05)[0] == tuple(read(loss, outputs, scale=0.05)[1])


def soft(z: Tensor, y: Tensor) -> Tensor:
    teacher = torch.randn(z.shape, generator=torch.Generator().manual_seed(1)).softmax(dim=-1)
    return functional.cross_entropy(z, teacher)


def mixed(z: Tensor, y: Tensor) -> Tensor:
    return 0.7 * functional.cross_entropy(z, y) + 0.3 * functional.cross_entropy(z, y.flip(0))


def policy(z: Tensor, y: Tensor) -> Tensor:
    reward = torch.rand(len(z), generator=torch.Generator().manual_seed(2))
    return (functional.cross_entropy(z, y, reduction="none") * reward).mean()


PROVE_NOTHING: dict[str, tuple[int, Loss]] = {
    "a teacher's probabilities": (3, soft),
    "a teacher's probabilities, of two": (2, soft),
    "mixed labels": (3, mixed),
    "rewards": (3, policy),
    "rewards, two actions": (2, policy),
    "regression": (1, lambda z, y: (z[:, 0] - torch.linspace(-1, 1, 32)).square().mean()),
    "several numbers": (3, lambda z, y: z.square().mean()),
}


@pytest.mark.parametrize("name", PROVE_NOTHING)
def test_losses_that_teach_no_class_of_a_sample(name: str) -> None:
    outputs, loss = PROVE_NOTHING[name]
    assert read(loss, outputs)[0] is None and read(loss, outputs, scale=0.05)[0] is None


def test_weights_that_no_two_samples_share_prove_nothing() -> None:
    z = torch.randn(4, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = functional.cross_entropy(z, torch.tensor([1, 3, 4, 6]), weight=torch.arange(1.0, 9.0))
    assert Taught().classes(z.detach(), torch.autograd.grad(loss, z)[0]) is None


@pytest.mark.parametrize("scale", [0.01, 0.05, 2.0])
def test_the_better_and_the_worse_of_a_pair_are_no_classes(scale: float) -> None:
    def pairs(z: Tensor, _: Tensor) -> Tensor:
        return -functional.logsigmoid(z[::2] - z[1::2]).mean()

    assert read(pairs, 1, scale=scale)[0] is None
