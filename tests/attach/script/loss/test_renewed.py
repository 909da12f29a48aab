"""A reference that is made the policy's equal again, on the same pairs; and new references for new pairs."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sightline.attach.script.loss.roots import Losses
from sightline.attach.script.watch import Models
from sightline.guard.check import Finding

PAIRS, ROUNDS = 16, 4
Pairs = Callable[[int], Tensor]


def log_p(model: nn.Module, ids: Tensor) -> Tensor:
    return model(ids[:, :-1]).log_softmax(-1).gather(2, ids[:, 1:, None]).sum((1, 2))


def told(pairs: Pairs, *, anew: bool = False, kept: bool = False, preferred: bool = True) -> list[Finding]:
    """By L9. `pairs`: of each round, the chosen rows before the rejected; anew: the reference is copied, not loaded."""
    torch.manual_seed(0)
    found: list[Finding] = []
    problems: list[str] = []
    policy = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 9))
    reference, optimizer = copy.deepcopy(policy), torch.optim.Adam(policy.parameters(), lr=1e-2)
    models = Models(1.0, found.append, problems.append)
    models.attach(policy, [optimizer], blind=False)
    losses = Losses(models, problems.append)
    for round_ in range(ROUNDS):
        if round_ and not kept:
            reference = copy.deepcopy(policy) if anew else reference
            reference.load_state_dict(policy.state_dict())
            for act in models.copied:
                act(reference)
        ids = pairs(round_)
        for _ in range(6):
            own = log_p(policy, ids)
            with torch.no_grad():
                base = log_p(reference, ids)
            chosen, rejected = (own - base).chunk(2)
            loss = -F.logsigmoid(chosen - rejected).mean() if preferred else -(own - base).mean()
            losses._look(loss, [one for one in models.live if one.listens])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    models.close_all(whole=True)
    assert not problems
    return [one for one in found if one.code == "L9"]


def rows(seed: int, number: int) -> Tensor:
    return torch.randint(9, (number, 7), generator=torch.Generator().manual_seed(seed))


def same(_: int) -> Tensor:
    return rows(0, 2 * PAIRS)


def new(round_: int) -> Tensor:
    return rows(round_, 2 * PAIRS)


def new_rejected(round_: int) -> Tensor:
    return torch.cat([rows(0, PAIRS), rows(round_ + 1, PAIRS)])


@pytest.mark.parametrize("anew", [False, True])
def test_the_same_pairs_and_another_reference(anew: bool) -> None:
    (found,) = told(same, anew=anew)
    assert found.severity == "warning" and "the policy's equal again" in found.message


@pytest.mark.parametrize("pairs", [new, new_rejected])
@pytest.mark.parametrize("anew", [False, True])
def test_a_new_reference_for_new_pairs(pairs: Pairs, anew: bool) -> None:
    assert told(pairs, anew=anew) == []


def test_sound_ones() -> None:
    assert told(same, kept=True) == []
    assert told(same, preferred=False) == []
