"""T2 between two networks that learn from each other: what the one's backward pass leaves in the other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce

import sightline

STEPS = 5


def found(clear: str, *, critic: int = 1, split: bool = False) -> list[str]:
    """A small GAN; `clear`: when the judge's gradients are cleared. The messages of T2."""
    torch.manual_seed(0)
    maker: Any = nn.Linear(4, 6)
    judge: Any = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
    opt_maker, opt_judge = torch.optim.SGD(maker.parameters(), lr=0.1), torch.optim.SGD(judge.parameters(), lr=0.1)
    ones, zeros = torch.ones(16, 1), torch.zeros(16, 1)
    with sightline.attach(judge, opt_judge, on_finding=None) as guard:
        for _ in range(STEPS):
            for _ in range(critic):
                fake = maker(torch.randn(16, 4))
                if clear == "before":
                    opt_judge.zero_grad()
                losses = [bce(judge(torch.randn(16, 6) + 2), ones), bce(judge(fake.detach()), zeros)]
                for loss in losses if split else [losses[0] + losses[1]]:
                    loss.backward()
                opt_judge.step()
                if clear == "after":
                    opt_judge.zero_grad()
            opt_maker.zero_grad()
            judge.requires_grad_(clear != "after, but frozen")
            bce(judge(fake), ones).backward()
            judge.requires_grad_(True)
            opt_maker.step()
            if clear == "after, but frozen":
                opt_judge.zero_grad()
    return [f.message for f in guard.findings if f.code == "T2"]


@pytest.mark.parametrize("more", [{}, {"split": True}, {"critic": 2}], ids=str)
def test_a_generators_gradients_stay_in_the_discriminator(more: dict[str, Any]) -> None:
    messages = found("after", **more)
    assert len(messages) == 1 and "on to the network before this one" in messages[0]
    assert found("before", **more) == []


def test_accumulation_beside_another_model_that_steps_more_often() -> None:
    """Two models in one loop, each with its own data: gradients that stay are the accumulation's."""
    torch.manual_seed(0)
    one, other = nn.Linear(4, 1), nn.Linear(4, 1)
    opt_one, opt_other = torch.optim.SGD(one.parameters(), lr=0.01), torch.optim.SGD(other.parameters(), lr=0.01)
    with sightline.attach(one, opt_one, on_finding=None) as guard:
        for place in range(2 * STEPS):
            (one(torch.randn(8, 4)).square().mean() / 2).backward()
            opt_other.zero_grad()
            other(torch.randn(8, 4)).square().mean().backward()
            if place % 2 == 0:
                opt_other.step()
            else:
                opt_one.step()
                opt_one.zero_grad()
    assert [f for f in guard.findings if f.code == "T2"] == []
