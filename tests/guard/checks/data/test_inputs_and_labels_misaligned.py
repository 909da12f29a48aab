"""I5 on bare evidence: separate shuffles, label noise, and inputs that never come back."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import sightline
from sightline.guard.check import CannotTell, Finding
from sightline.guard.checks.data.inputs_and_labels_misaligned import find
from sightline.guard.evidence import Fed, FeedSeen, PullSeen


def epochs(count: int, rows: int, wrong: float, classes: int = 4, *, fresh: bool = False) -> FeedSeen:
    """`wrong`: the share of labels that are drawn anew in each epoch."""
    draw, batches = random.Random(3), []
    for epoch in range(count):
        for start in range(0, rows, 8):
            ids = range(start, start + 8)
            labels = tuple(draw.randrange(classes) if draw.random() < wrong else i % classes for i in ids)
            batches.append(Fed(len(batches), tuple(i + 1000 * epoch * fresh for i in ids), labels))
    return FeedSeen(len(batches), tuple(batches))


def test_labels_that_are_drawn_anew_each_epoch() -> None:
    found = find(epochs(2, 64, wrong=1.0))
    assert isinstance(found, Finding) and found.seen["came back"] == 64


def test_two_classes_are_enough() -> None:
    assert isinstance(find(epochs(3, 64, wrong=1.0, classes=2)), Finding)


def test_true_pairs_and_a_little_noise_are_silent() -> None:
    assert find(epochs(3, 64, wrong=0.0)) is None
    assert find(epochs(5, 256, wrong=0.1)) is None


@pytest.mark.parametrize("rows", [24, 32, 64, 256])
def test_a_fifth_of_two_classes_is_wrong(rows: int) -> None:
    """Answers that are wrong by chance, of inputs that are there more than once."""
    assert find(epochs(3, rows, wrong=0.4, classes=2)) is None


def test_wrong_pairs_that_are_drawn_are_right_ones_by_chance() -> None:
    """Within an epoch, only such come back."""
    draw, batches = random.Random(3), []
    for start in range(0, 2400, 128):
        drawn = [draw.randrange(20_000) for _ in range(128)]
        batches.append(Fed(len(batches), (*range(start, start + 128), *drawn), (1,) * 128 + (0,) * 128))
    assert isinstance(find(FeedSeen(len(batches), tuple(batches))), CannotTell)


def test_augmented_inputs_never_come_back() -> None:
    assert isinstance(find(epochs(3, 64, wrong=1.0, fresh=True)), CannotTell)


def test_too_few_came_back_or_no_class_is_known() -> None:
    assert isinstance(find(epochs(2, 8, wrong=1.0)), CannotTell)
    nameless = FeedSeen(8, tuple(Fed(step, (1, 2, 3, 4)) for step in range(8)))
    assert isinstance(find(nameless), CannotTell)


def test_duplicates_inside_one_batch_are_no_comparison() -> None:
    batch = Fed(0, (1,) * 32, tuple(range(32)))
    assert isinstance(find(FeedSeen(1, (batch,))), CannotTell)


def regression(loss: Callable[[Tensor, Tensor], Tensor], targets: Callable[[Tensor], Tensor]) -> list[str]:
    """I5 on a stranger's loop whose model has one output (n, 1) a sample."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    with sightline.attach(model, optimizer, on_finding=None) as guard:
        for _ in range(24):
            x = torch.randn(32, 5)
            optimizer.zero_grad()
            loss(model(x), targets(x)).backward()
            optimizer.step()
    return [finding.message for finding in guard.findings if finding.code == "I5"]


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().mean()


def test_outputs_in_a_column_and_targets_in_a_row() -> None:
    (said,) = regression(squared, lambda x: x[:, 0] - 2 * x[:, 1])
    assert "all 32 outputs of a batch to one number" in said
    (said,) = regression(squared, lambda x: 2 + x[:, 0] - 2 * x[:, 1])
    (said,) = regression(lambda o, y: squared(o.squeeze(1), y), lambda x: x[:, :1] - 2 * x[:, 1:2])
    assert "another one in each batch" in said


ONE_NUMBER_ON_PURPOSE = {
    "targets of the same shape": (squared, lambda x: x[:, :1] - 2 * x[:, 1:2]),
    "a discriminator's target": (squared, lambda x: torch.ones(32)),
    "a discriminator's logits": (nn.functional.binary_cross_entropy_with_logits, lambda x: torch.ones(32, 1)),
    "real or fake by turns": (
        lambda o, y: nn.functional.softplus(o * (1 if float(y[0]) > 0 else -1)).mean(),
        lambda x: x[:, :1],
    ),
    "targets that the outputs know": (squared, lambda x: 3 * x[:, :1]),
    "outputs held together": (lambda o, _: (o - o.mean().detach()).square().mean(), lambda x: x),
    "outputs pushed up": (lambda o, _: -o.mean(), lambda x: x),
    "absolute error": (lambda o, y: (o - y).abs().mean(), lambda x: x[:, :1]),
    "pairs of outputs": (lambda o, y: (o - o.T - (y - y.T)).square().mean(), lambda x: x[:, :1]),
    "yes or no": (lambda o, y: nn.functional.binary_cross_entropy_with_logits(o, (y > 0).float()), lambda x: x[:, :1]),
}


@pytest.mark.parametrize("name", ONE_NUMBER_ON_PURPOSE)
def test_losses_that_know_each_sample_or_mean_one_number(name: str) -> None:
    assert regression(*ONE_NUMBER_ON_PURPOSE[name]) == []


@pytest.mark.parametrize(
    ("centres", "found"),
    [((0.11, -0.24, 0.31, 0.02, -0.09), True), ((-2.0033, 2.0032, 2.0025, -2.0024, 2.0005), False)],
    ids=["means of targets", "real and fake by turns"],
)
def test_numbers_that_outputs_are_pulled_to(centres: tuple[float, ...], found: bool) -> None:
    seen = PullSeen(4, 32, centres, means=(-0.08,) * 5, spread=(0.02,) * 5)
    assert isinstance(find(pull=seen), Finding) is found


@pytest.mark.parametrize("apart", [True, False])
def test_class_weights_hide_no_separate_shuffle(apart: bool) -> None:
    """A class has the weight of its own in all batches; labels are shuffled on their own, or with their inputs."""
    torch.manual_seed(0)
    x, y, weights = torch.randn(96, 5), torch.arange(96) % 3, torch.tensor([0.3, 1.0, 2.5])
    model = nn.Linear(5, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    with sightline.attach(model, optimizer, on_finding=None) as guard:
        for _ in range(3):
            order = torch.randperm(96)
            labels = y[torch.randperm(96) if apart else order]
            for rows, taught in zip(order.split(24), labels.split(24), strict=True):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x[rows]), taught, weight=weights).backward()
                optimizer.step()
    assert ("I5" in {finding.code for finding in guard.findings}) is apart


def numbers(y: Tensor, loss: Callable[[Tensor, Tensor], Tensor], *, drawn: bool, anew: float = 0.0) -> list[str]:
    """I5 on epochs over the same inputs; labels in a drawn order of their own, or `anew`, so much noise each time."""
    torch.manual_seed(0)
    x = torch.randn(len(y), 5)
    model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, y.shape[1]))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    with sightline.attach(model, optimizer, on_finding=None) as guard:
        for _ in range(4):
            order, other = torch.randperm(len(y)), torch.randperm(len(y))
            for at in range(0, len(y), 16):
                rows = order[at : at + 16]
                taught = y[other[at : at + 16] if drawn else rows]
                optimizer.zero_grad()
                loss(model(x[rows]), taught + anew * torch.randn_like(taught)).backward()
                optimizer.step()
    return [finding.message for finding in guard.findings if finding.code == "I5"]


LOSSES = {"squared": nn.functional.mse_loss, "Huber": nn.functional.smooth_l1_loss}


@pytest.mark.parametrize("name", LOSSES)
def test_numbers_in_an_order_of_their_own(name: str) -> None:
    y = torch.randn(96, 1, generator=torch.Generator().manual_seed(1))
    (said,) = numbers(y, LOSSES[name], drawn=True)
    assert "were taught the number of another input" in said
    assert numbers(y, LOSSES[name], drawn=False) == []
    assert numbers(y, LOSSES[name], drawn=False, anew=1.0) == []
    assert numbers(y.round(), LOSSES[name], drawn=True) == []  # steps of a scale may be drawn
    assert numbers(y, nn.functional.l1_loss, drawn=True) == []


def test_sets_of_labels_in_an_order_of_their_own() -> None:
    y = (torch.rand(96, 5, generator=torch.Generator().manual_seed(1)) < 0.4).float()
    weight = torch.tensor([1.0, 0.5, 2.0, 1.0, 1.0])

    def loss(z: Tensor, y: Tensor) -> Tensor:
        return (nn.functional.binary_cross_entropy_with_logits(z, y, reduction="none") * weight).mean()

    (said,) = numbers(y, loss, drawn=True)
    assert "were taught another class than before" in said
    assert numbers(y, loss, drawn=False) == []
    assert numbers(y, loss, drawn=False, anew=0.1) == []  # soft labels are none
