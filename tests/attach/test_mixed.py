"""Numbers beside rows: a loss beside its answers, or the one answer of a bag beside what each of its parts has."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

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
