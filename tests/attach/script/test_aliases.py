"""A reference that holds the policy's own weights under another name; and views of weights that are no references."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sightline.attach.script.aliases import Aliases
from sightline.attach.script.watch import Models
from sightline.guard.check import Finding

STEPS = 14


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(11, 16), nn.Tanh(), nn.Linear(16, 11))


def log_p(model: nn.Module, ids: Tensor) -> Tensor:
    """(B,) log probability of each row, each token given the one before it."""
    return model(ids[:, :-1]).log_softmax(-1).gather(2, ids[:, 1:, None]).sum((1, 2))


def assigned(policy: nn.Sequential) -> nn.Module:
    """Loaded without a copy: new parameters over the policy's memory."""
    other = net()
    other.load_state_dict(policy.state_dict(), assign=True)
    return other.requires_grad_(False)


def put_together(policy: nn.Sequential) -> nn.Module:
    return nn.Sequential(*[copy.deepcopy(part) for part in policy]).requires_grad_(False)


def same_tensors(policy: nn.Sequential) -> nn.Module:
    """Another module over the policy's data."""
    other = net()
    for own, given in zip(other.parameters(), policy.parameters(), strict=True):
        own.data = given.data
    return other.requires_grad_(False)


def findings(policy: nn.Sequential, reference: nn.Module, *, preference: bool = True) -> list[Finding]:
    """Preferences by hand (or a regression), the reference run on the same tensors in each step."""
    problems: list[str] = []
    found: list[Finding] = []
    models = Models(1.0, found.append, problems.append)
    opt = torch.optim.SGD(policy.parameters(), lr=0.1)
    Aliases(models, problems.append).look(
        [*policy.modules(), *reference.modules()], {id(p) for p in policy.parameters()}
    )
    models.attach(policy, [opt], blind=False)
    guard = models.live[0].attachment
    assert guard is not None
    for _ in range(STEPS):
        ids = torch.randint(11, (8, 6))
        with torch.no_grad():
            base = log_p(reference, ids)
        own = log_p(policy, ids)
        chosen, rejected = (own - base).chunk(2)
        loss = -F.logsigmoid(chosen - rejected).mean() if preference else -own.mean() / 5
        opt.zero_grad()
        guard.step(loss=loss)
        loss.backward()
        opt.step()
    models.close_all(whole=True)
    assert not problems
    return [finding for finding in found if finding.severity != "note"]


@pytest.mark.parametrize("alias", [assigned, same_tensors])
def test_a_reference_over_the_policys_memory(alias: Callable[[nn.Sequential], nn.Module]) -> None:
    policy = net()
    (finding,) = findings(policy, alias(policy))
    assert finding.code == "L9" and "with itself" in finding.message


def test_a_copy_and_a_view_that_is_no_reference() -> None:
    policy = net()
    assert not findings(policy, put_together(policy))
    assert not findings(policy, assigned(policy), preference=False)
