"""L8 for hand-written preference losses: of a reward model or a policy, in two passes or the halves of one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sightline import attach

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


class Reward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.score, self.drop = nn.Embedding(20, 8, 0), nn.Linear(8, 1), nn.Dropout(0.1)

    def forward(self, ids: Tensor) -> Tensor:
        return self.score(self.drop(self.words(ids)).mean(1)).squeeze(-1)


class Policy(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Embedding(20, 8), nn.Linear(8, 20))


def two_passes(model: nn.Module, chosen: Tensor, rejected: Tensor) -> Tensor:
    model.drop.eval()  # type: ignore[union-attr]
    return -nn.functional.logsigmoid(model(chosen) - model(rejected)).mean()


def one_pass(model: nn.Module, chosen: Tensor, rejected: Tensor) -> Tensor:
    up, down = model(torch.cat([chosen, rejected])).log_softmax(-1).chunk(2)
    both = [part.gather(-1, ids[..., None]).sum((1, 2)) for part, ids in ((up, chosen), (down, rejected))]
    return -nn.functional.logsigmoid(0.1 * (both[0] - both[1])).mean()


def two_views(model: nn.Module, chosen: Tensor, rejected: Tensor) -> Tensor:
    """Dropout drawn twice on the same rows, as R-Drop and SimCSE do."""
    one, other = model(chosen), model(rejected)
    return ((one - other) ** 2).mean() + ((one - 1) ** 2).mean() + ((other - 1) ** 2).mean()


def told(loss: Loss, of: int) -> list[str]:
    """The findings of a run in which so many of eight pairs tie."""
    torch.manual_seed(0)
    model = Policy() if loss is one_pass else Reward()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with attach(model, optimizer, on_finding=None) as guard:
        for _ in range(8):
            chosen = torch.randint(1, 20, (8, 6))
            rejected = torch.randint(1, 20, (8, 6))
            rejected[:of] = chosen[:of]
            optimizer.zero_grad()
            loss(model, chosen, rejected).backward()
            optimizer.step()
    return [finding.message for finding in guard.findings if finding.code == "L8"]


@pytest.mark.parametrize("loss", [two_passes, one_pass], ids=lambda f: f.__name__)
def test_chosen_and_rejected_are_one(loss: Loss) -> None:
    assert any("the same in" in message for message in told(loss, 8))
    assert any("the same in" in message for message in told(loss, 5))
    assert not told(loss, 2)  # some tie
    assert not told(loss, 0)


def test_two_views_of_a_row_are_no_pair() -> None:
    assert not told(two_views, 8)
