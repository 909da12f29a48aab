"""L9 through the door: DPO by hand, with a reference that is none, moves, or stays; and answers that are swapped."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers
from torch.nn import functional as F

import sightline

pytestmark = pytest.mark.slow  # many settings of rules that quick tests prove in one


def little() -> Any:
    torch.manual_seed(0)
    ends = {"bos_token_id": 0, "eos_token_id": 1}
    config = transformers.GPT2Config(vocab_size=30, n_embd=16, n_layer=1, n_head=2, n_positions=32, **ends)
    return transformers.GPT2LMHeadModel(config)


def logp(net: Any, answers: torch.Tensor) -> torch.Tensor:
    spoken = net(answers).logits[:, :-1].log_softmax(-1)
    return spoken.gather(-1, answers[:, 1:, None]).squeeze(-1).sum(-1)


def dpo(fault: str, steps: int = 40) -> list[str]:
    policy = little()
    frozen = policy if fault == "itself" else copy.deepcopy(policy)
    group = [*policy.parameters(), *(frozen.parameters() if fault == "trained too" else [])]
    opt = torch.optim.AdamW(group, lr=1e-3)
    guard = sightline.attach(policy, opt, on_finding=None)
    guard.reference(frozen)
    sign = -1 if fault == "swapped" else 1
    for _ in range(steps):
        good = torch.randint(0, 15, (4, 10))
        bad = torch.randint(15, 30, (4, 10))
        opt.zero_grad()
        with torch.set_grad_enabled(fault == "trained too"):
            base = logp(frozen, good) - logp(frozen, bad)
        margin = 0.1 * (logp(policy, good) - logp(policy, bad) - base)
        F.softplus(-sign * margin).mean().backward()
        opt.step()
        guard.log({"dpo/margin": margin.mean(), "dpo/reward_accuracy": (margin > 0).float().mean()})
    guard.close()
    return [f"{finding.code} {finding.severity}" for finding in guard.findings]


@pytest.mark.parametrize("fault", ["none", "itself", "trained too", "swapped"])
def test_dpo_by_hand(fault: str) -> None:
    found = dpo(fault)
    assert found == [] if fault == "none" else "L9 error" in found


def imitate(policy: Any, steps: int) -> None:
    """An optimizer of its own, as for the stage before."""
    opt = torch.optim.AdamW(policy.parameters(), lr=1e-4)
    for _ in range(steps):
        ids = torch.randint(2, 30, (4, 10))
        opt.zero_grad()
        policy(ids, labels=ids).loss.backward()
        opt.step()


@pytest.mark.parametrize("order", ["reference first", "policy first", "after examples"])
@pytest.mark.parametrize("fault", ["none", "itself"])
def test_a_reference_that_nobody_named(order: str, fault: str) -> None:
    """The loss stays at ln 2, and the policy runs again, without gradients, on what it is trained on."""
    policy = little().eval()
    guard = sightline.attach(policy, on_finding=None, budget=1.0 if order == "after examples" else 0.02)
    if order == "after examples":
        imitate(policy, 70)
    frozen = policy if fault == "itself" else copy.deepcopy(policy)
    opt = torch.optim.AdamW(policy.parameters(), lr=1e-3)
    pairs = [(torch.randint(0, 15, (4, 10)), torch.randint(15, 30, (4, 10))) for _ in range(8)]
    for good, bad in pairs * 3:
        opt.zero_grad()
        ours = logp(policy, good) - logp(policy, bad) if order == "policy first" else None
        with torch.no_grad():
            base = logp(frozen, good) - logp(frozen, bad)
        ours = logp(policy, good) - logp(policy, bad) if ours is None else ours
        loss = F.softplus(-0.1 * (ours - base)).mean()
        guard.step(loss=loss)
        loss.backward()
        opt.step()
    guard.close()
    assert [finding.code for finding in guard.findings] == ([] if fault == "none" else ["L9"])


def test_an_accuracy_of_the_batch_that_is_trained_on() -> None:
    """Passes without gradients on training rows, in every step: no evaluation, and no reference."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
    opt = torch.optim.AdamW(net.parameters(), lr=1e-3)
    rows = [torch.randn(16, 6) for _ in range(6)]
    guard = sightline.attach(net, opt, on_finding=None)
    for x in rows * 4:
        y = (x[:, 0] > 0).long()
        opt.zero_grad()
        loss = F.cross_entropy(net(x), y)
        guard.step(loss=loss)
        loss.backward()
        with torch.no_grad():
            guard.log(accuracy=(net(x).argmax(-1) == y).float().mean())
        opt.step()
    guard.close()
    assert not guard.findings
