"""X2 between two stages: the connector that the first one aligned, and the one that the second begins with."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import sightline


class Sees(nn.Module):
    """Features of a picture in front of words."""

    def __init__(self) -> None:
        super().__init__()
        self.vision, self.projector = nn.Conv2d(3, 16, 4), nn.Linear(16, 16)
        self.language = nn.Sequential(nn.Embedding(9, 16), nn.Linear(16, 9))

    def forward(self, images: Tensor, ids: Tensor) -> Tensor:
        seen = self.projector(self.vision(images).flatten(1))
        out: Tensor = self.language[1](self.language[0](ids) + seen[:, None])
        return out


def stage(model: Sees, learns: str, steps: int = 8) -> list[str]:
    """One watched stage, in which the parts that `learns` names learn."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(tuple(learns.split())))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    towers = {"vision": ["vision"], "connector": ["projector"], "language": ["language"]}
    with sightline.attach(model, optimizer, towers=towers, on_finding=None) as guard:
        for _ in range(steps):
            ids = torch.randint(9, (16, 5))
            optimizer.zero_grad()
            cross_entropy(model(torch.randn(16, 3, 4, 4), ids).flatten(0, 1), ids.flatten()).backward()
            optimizer.step()
    return [finding.message for finding in guard.findings if finding.code == "X2"]


def two(between: Any, first: str = "projector", second: str = "projector language") -> list[str]:
    torch.manual_seed(0)
    model = Sees()
    assert stage(model, first) == []
    between(model)
    return stage(model, second)


def anew(model: Sees) -> None:
    model.projector.reset_parameters()


def another(model: Sees) -> None:
    model.projector = nn.Linear(16, 16)


@pytest.mark.parametrize("between", [anew, another])
def test_a_projector_that_is_made_again_for_the_second_stage(between: Any) -> None:
    (message,) = two(between)
    assert "initialised anew" in message and "begins to learn" in message


def test_one_that_goes_on() -> None:
    assert two(lambda model: None) == []
    assert two(lambda model: model.load_state_dict(copy.deepcopy(model.state_dict()))) == []


def test_one_that_was_trained_elsewhere() -> None:
    def loaded(model: Sees) -> None:
        with torch.no_grad():
            model.projector.weight.copy_(torch.randn(16, 16) * 2)

    assert two(loaded) == []


def test_another_seed_of_the_first_stage_or_of_a_stage_in_which_all_learn() -> None:
    assert two(anew, second="projector") == []
    assert two(anew, first="projector language") == []
