"""Which modules a script's optimizer is found to train, in this process: parts that are called apart, or never."""

from __future__ import annotations

import copy

import torch
from torch import nn

from sightline.attach.script.scout import Scout
from sightline.attach.script.watch import Models
from sightline.guard.check import Finding


def judged(*, silent: bool, steps: int = 12) -> tuple[list[str], str]:
    """Codes, and what was watched: an actor and a critic with one optimizer, the actor under no_grad or not."""
    torch.manual_seed(0)
    findings: list[Finding] = []
    problems: list[str] = []
    models = Models(1.0, findings.append, problems.append)
    scout = Scout(models, problems.append)
    actor, critic = (nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, n)) for n in (3, 1))
    optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()], lr=1e-3)
    scout.noticed(optimizer)
    try:
        for _ in range(steps):
            seen = torch.randn(16, 6)
            with torch.set_grad_enabled(not silent):
                chance = torch.distributions.Categorical(logits=actor(seen))
                action = chance.sample()
                spoken = chance.log_prob(action)
            gain = (action == seen[:, :3].argmax(1)).float()
            worth = critic(seen).squeeze(-1)
            loss = (worth - gain).square().mean() - (spoken * (gain - worth.detach())).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    finally:
        models.close_all(whole=True)
    assert not problems
    return sorted({finding.code for finding in findings}), models.watched[0].name


def test_a_part_that_never_runs_with_gradients_is_watched_too() -> None:
    assert judged(silent=True) == (["T1"], "Sequential + Sequential")
    assert judged(silent=False) == ([], "Sequential + Sequential")


def test_a_shallow_copy_shares_its_hooks() -> None:
    problems: list[str] = []
    models = Models(1.0, lambda _: None, problems.append)
    scout = Scout(models, problems.append)
    policy = nn.Linear(4, 2)
    scout.noticed(before := torch.optim.SGD(policy.parameters(), lr=0.1))
    reference = copy.copy(policy)  # with the hook that waits for the first call
    scout.noticed(optimizer := torch.optim.SGD([*policy.parameters(), *nn.Linear(1, 1).parameters()], lr=0.1))
    try:
        for _ in range(3):
            with torch.no_grad():
                reference(torch.randn(3, 4))
            policy(torch.randn(3, 4)).square().mean().backward()
            optimizer.step()
            before.zero_grad()
    finally:
        models.close_all(whole=True)
    assert not problems and models.watched
