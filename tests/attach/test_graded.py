"""T3: evaluations with gradients on and in train mode, and what looks like them and is training."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import sightline
from sightline.attach.feed import Feed
from sightline.guard.catalogue import load, page

Batch = tuple[Tensor, Tensor]


class Lab:
    """A model, the data that it is trained on, and other data."""

    def __init__(self, *, norm: bool = True) -> None:
        torch.manual_seed(0)
        data = [TensorDataset(torch.randn(24, 6), torch.randint(0, 2, (24,))) for _ in range(2)]
        self.train, self.other = (DataLoader(one, batch_size=8) for one in data)
        layers = [nn.Linear(6, 12), nn.BatchNorm1d(12) if norm else nn.Identity(), nn.ReLU(), nn.Dropout(0.3)]
        self.net = nn.Sequential(*layers, nn.Linear(12, 2))
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.05)
        self.feed: Feed | None = None

    def batches(self, loader: DataLoader[Batch]) -> Iterator[Batch]:
        for place, (x, y) in enumerate(loader):
            self.feed = Feed(loader, 0, 0.0, place)
            yield x, y

    def step(self, x: Tensor, y: Tensor) -> None:
        self.optimizer.zero_grad()
        F.cross_entropy(self.net(x), y).backward()
        self.optimizer.step()

    def epoch(self, each: Callable[[Lab], None] | None = None) -> None:
        self.net.train()
        for x, y in self.batches(self.train):
            self.step(x, y)
            if each is not None:
                each(self)


Found = Callable[..., list[str]]


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Found:
    def told(judge: Callable[[Lab], None], *, times: int = 3, each: bool = False, norm: bool = True) -> list[str]:
        lab = Lab(norm=norm)
        monkeypatch.setattr(Feed, "source", lambda: lab.feed)
        checks = load((page("T3"),))
        with sightline.attach(lab.net, lab.optimizer, on_finding=None, checks=checks) as guard:
            for _ in range(times):
                lab.epoch(judge if each else None)
                if not each:
                    judge(lab)
        return [finding.message for finding in guard.findings]

    return told


def forgetful(lab: Lab) -> None:
    hits = 0
    for x, y in lab.batches(lab.other):
        hits += int((lab.net(x).argmax(1) == y).sum())


def careful(lab: Lab) -> None:
    lab.net.eval()
    forgetful(lab)


def parts_chosen(lab: Lab) -> None:
    """Batch norm of the batch itself, on purpose."""
    lab.net.eval()
    lab.net[1].train()
    forgetful(lab)


def the_same_data(lab: Lab) -> None:
    for x, _ in lab.batches(lab.train):
        lab.net(x).argmax(1)


def statistics(lab: Lab) -> None:
    for x, _ in lab.batches(lab.other):
        lab.net(x)


def one_batch(lab: Lab) -> None:
    for x, _ in lab.batches(lab.other):
        lab.net(x).argmax(1)
        break


def backward_after_all(lab: Lab) -> None:
    loss = sum((F.cross_entropy(lab.net(x), y) for x, y in lab.batches(lab.other)), torch.zeros(()))
    x, y = next(lab.batches(lab.train))
    lab.optimizer.zero_grad()
    (loss + F.cross_entropy(lab.net(x), y)).backward()
    lab.optimizer.step()


def of_inputs(lab: Lab) -> None:
    """Which of the inputs matter: no parameter has a gradient of it."""
    for x, y in lab.batches(lab.other):
        x = x.clone().requires_grad_()
        torch.autograd.grad(F.cross_entropy(lab.net(x), y), x)


def next_stage(lab: Lab) -> None:
    """Labels for other data, which is then trained on."""
    labels = [(x, lab.net(x).argmax(1)) for x, _ in lab.batches(lab.other)]
    for (_, _), (x, guess) in zip(lab.batches(lab.other), labels, strict=True):
        lab.step(x, guess)


def for_another(lab: Lab) -> None:
    """Another network learns of what this one says."""
    student = nn.Linear(6, 2)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    for x, _ in lab.batches(lab.other):
        F.mse_loss(student(x), lab.net(x).detach()).backward()
        optimizer.step()


def draws(lab: Lab) -> None:
    for x, _ in lab.batches(lab.other):
        torch.stack([lab.net(x) for _ in range(10)]).std(0)


@pytest.mark.parametrize("times", [3, 1])
def test_neither_eval_nor_no_grad(found: Found, times: int) -> None:
    """Also where it is the last thing that the run does."""
    (message,) = found(forgetful, times=times)
    assert message.startswith(
        "evaluation, of 3 batches that no backward pass came back to, runs with 2 modules in train"
    )
    assert len(found(forgetful, times=times, norm=False)) == 1


SOUND = (careful, parts_chosen, the_same_data, statistics, one_batch, backward_after_all, of_inputs, next_stage)


@pytest.mark.parametrize("judge", [*SOUND, for_another])
def test_what_is_no_evaluation_or_a_sound_one(found: Found, judge: Callable[[Lab], None]) -> None:
    assert found(judge) == []


def test_draws_with_dropout_alone(found: Found) -> None:
    assert found(draws, norm=False) == []
    assert len(found(draws)) == 1


def test_passes_at_each_step_are_training(found: Found) -> None:
    assert found(forgetful, each=True) == []
