"""Numbers beside rows: a loss beside its answers, or the one answer of a bag beside what each of its parts has."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import sightline
from sightline.guard.catalogue import load, page

Two = tuple[Tensor, Tensor]


class Bag(nn.Module):
    """One answer for all rows, and the attention that each of them gets."""

    def __init__(self) -> None:
        super().__init__()
        self.see, self.weigh, self.head = nn.Linear(4, 8), nn.Linear(8, 1), nn.Linear(8, 1)

    def forward(self, patches: Tensor) -> Two:
        seen = self.see(patches).tanh()
        share = self.weigh(seen).softmax(0)
        return self.head((share * seen).sum(0)).squeeze(-1), share.squeeze(-1)


class Rows(nn.Module):
    """A loss and each row's answer, which is normalised over the batch where it is `mixed`. `cut`: told in part."""

    def __init__(self, mixed: bool, cut: bool) -> None:
        super().__init__()
        self.see, self.mixed, self.cut = nn.Linear(4, 3), mixed, cut

    def forward(self, rows: Tensor) -> Two:
        out = self.see(rows).softmax(0 if self.mixed else 1)
        return (out - 1 / 3).square().sum(1).mean(), out[:, :2] if self.cut else out


def codes(model: nn.Module, *, of_a_bag: bool = False, parts: int = 1) -> set[str]:
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with sightline.attach(model, optimizer, on_finding=None, checks=load((page("I4"),)), budget=1.0) as guard:
        for _ in range(8):
            optimizer.zero_grad()
            for _ in range(parts):
                rows = torch.randn(6, 4)
                number, _ = model(rows)
                loss = nn.functional.binary_cross_entropy_with_logits(number, torch.ones(())) if of_a_bag else number
                (loss / parts).backward()
            optimizer.step()
    return {finding.code for finding in guard.findings}


def test_parts_of_a_bag_are_weighed_against_each_other() -> None:
    assert codes(Bag(), of_a_bag=True) == set()


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("parts", [1, 3])
def test_answers_beside_their_loss(cut: bool, parts: int) -> None:
    assert codes(Rows(True, cut), parts=parts) == {"I4"}
    assert codes(Rows(False, cut), parts=parts) == set()


class Pool(nn.Module):
    """The parts of each sample, by weights that begin alike; over the samples where it is `mixed`."""

    def __init__(self, mixed: bool) -> None:
        super().__init__()
        self.see, self.weigh, self.head, self.mixed = nn.Linear(4, 8), nn.Linear(8, 1), nn.Linear(8, 3), mixed
        nn.init.normal_(self.weigh.weight, std=1e-3)

    def forward(self, parts: Tensor) -> Tensor:
        seen = self.see(parts).tanh()
        return self.head((self.weigh(seen).softmax(0 if self.mixed else 1) * seen).sum(1))


@pytest.mark.parametrize("mixed", [True, False])
def test_weights_over_samples_that_begin_alike(mixed: bool) -> None:
    torch.manual_seed(0)
    model = Pool(mixed)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    kinds = torch.randint(3, (640,))
    parts = torch.randn(640, 5, 4)
    parts[torch.arange(640), torch.randint(5, (640,))] += 4 * torch.eye(4)[kinds]
    loader = DataLoader(TensorDataset(parts, kinds), batch_size=16, shuffle=True)
    with sightline.attach(model, optimizer, loader, on_finding=None, checks=load((page("I4"),)), budget=1.0) as guard:
        for _ in range(2):
            for rows, labels in loader:
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(rows), labels).backward()
                optimizer.step()
    assert [found.code for found in guard.findings] == ["I4"] * mixed
