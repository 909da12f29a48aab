"""Preference losses of a policy that is its own reference, beside another term; and losses with margins."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sightline
from sightline.attach.script.loss.margins import STEPS, Margins, moved
from sightline.attach.script.loss.roots import Losses
from sightline.attach.script.watch import Models
from sightline.guard.catalogue import load, page
from sightline.guard.check import Finding

Loss = Callable[[Tensor], Tensor]


def log_p(model: nn.Module, ids: Tensor) -> Tensor:
    at = model(ids[:, :-1]).log_softmax(-1).gather(2, ids[:, 1:, None])
    return at.sum((1, 2))


def margins(policy: nn.Module, reference: nn.Module, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Of each pair, and the log likelihood of all."""
    own = log_p(policy, ids)
    with torch.no_grad():
        base = log_p(reference, ids)
    chosen, rejected = (own - base).chunk(2)
    return 0.1 * (chosen - rejected), own.mean()


def codes(
    loss: Callable[[nn.Module, nn.Module, Tensor], Tensor], *, copied: bool, rate: float = 1e-2, frozen: bool = False
) -> set[str]:
    """Of L9, after a few steps. `Margins` is called as under `sightline run`."""
    torch.manual_seed(0)
    policy = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 9))
    policy[0].requires_grad_(not frozen)
    reference = copy.deepcopy(policy) if copied else nn.Sequential(*policy)
    optimizer, look = torch.optim.Adam(policy.parameters(), lr=rate), Margins()
    with sightline.attach(policy, optimizer, on_finding=None, checks=load((page("L9"),)), budget=1.0) as guard:
        for _ in range(STEPS + 4):
            value = loss(policy, reference, torch.randint(9, (8, 5)))
            look.look(value, guard._recorder)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    return {finding.code for finding in guard.findings}


def with_examples(policy: nn.Module, reference: nn.Module, ids: Tensor) -> Tensor:
    margin, likely = margins(policy, reference, ids)
    return -F.logsigmoid(margin).mean() - 0.1 * likely


def by_softplus(policy: nn.Module, reference: nn.Module, ids: Tensor) -> Tensor:
    margin, likely = margins(policy, reference, ids)
    return F.softplus(-margin).mean() - 0.1 * likely


def written_out(policy: nn.Module, reference: nn.Module, ids: Tensor) -> Tensor:
    margin, likely = margins(policy, reference, ids)
    return -torch.log(torch.sigmoid(margin)).mean() - 0.1 * likely


@pytest.mark.parametrize("loss", [with_examples, by_softplus, written_out])
@pytest.mark.parametrize("copied", [False, True])
def test_a_policy_beside_itself(loss: Callable[[nn.Module, nn.Module, Tensor], Tensor], copied: bool) -> None:
    assert codes(loss, copied=copied) == (set() if copied else {"L9"})


@pytest.mark.parametrize("frozen", [False, True])
def test_a_policy_that_hardly_moves_has_no_margin_yet(frozen: bool) -> None:
    assert not codes(with_examples, copied=True, rate=1e-9, frozen=frozen)


@pytest.mark.parametrize("copied", [False, True])
def test_a_policy_with_frozen_parts_is_asked_whether_it_moves(copied: bool) -> None:
    assert codes(with_examples, copied=copied, frozen=True) == (set() if copied else {"L9"})


@pytest.mark.parametrize("copied", [False, True])
def test_a_policy_made_around_a_model_that_was_trained_before(copied: bool) -> None:
    """As adapters are put around one: both hear the policy's calls, and the loss is the policy's."""
    found: list[Finding] = []
    problems: list[str] = []
    models, base = Models(1.0, found.append, problems.append), nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 8))
    torch.manual_seed(0)
    models.attach(base, [torch.optim.Adam(base.parameters(), lr=1e-2)], blind=False)
    policy = nn.Sequential(base, nn.Linear(8, 9))
    reference, optimizer = copy.deepcopy(policy) if copied else policy, torch.optim.Adam(policy.parameters(), lr=1e-2)
    models.attach(policy, [optimizer], blind=False)
    losses = Losses(models, problems.append)
    for _ in range(STEPS + 4):
        loss = with_examples(policy, reference, torch.randint(9, (8, 5)))
        losses._look(loss, [one for one in models.live if one.listens])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    models.close_all(whole=True)
    assert not problems
    assert {one.code for one in found if one.code == "L9"} == (set() if copied else {"L9"})


def test_two_sigmoids_are_no_preference() -> None:
    def both(policy: nn.Module, reference: nn.Module, ids: Tensor) -> Tensor:
        margin, likely = margins(policy, reference, ids)
        return -(F.logsigmoid(margin) + F.logsigmoid(-margin)).mean() - likely

    assert not codes(both, copied=False)


def test_what_has_moved() -> None:
    first = [torch.ones(4), torch.ones(4), torch.ones(4)]
    assert moved(first, [torch.ones(4) * 1.01, torch.ones(4) * 1.01, torch.ones(4)])
    assert not moved(first, [torch.ones(4) * 1.01, torch.ones(4), torch.ones(4)])
    assert not moved([torch.zeros(4)], [torch.ones(4)])  # an adapter that begins at zero
    assert not moved(first, first[:2])
