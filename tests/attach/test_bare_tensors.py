"""Plain tensors in a model that learn nothing, where parameters were meant; and those that somebody tends to."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import sightline
from sightline.guard.catalogue import load, page

SOUND = ("a parameter", "given", "moved by hand", "moved through .data", "its gradient cleared", "set anew", "a tap")


class Pooled(nn.Module):
    """Queries that are learnt pool the states."""

    def __init__(self, case: str) -> None:
        super().__init__()
        self.case, self.body, self.head = case, nn.Linear(6, 8), nn.Linear(3, 2)
        queries = torch.randn(3, 8, requires_grad=True)
        self.queries = nn.Parameter(queries) if case == "a parameter" else queries

    def forward(self, x: Tensor) -> Tensor:
        if self.case == "set anew":
            self.queries = torch.randn(3, 8, requires_grad=True)
        return self.head(self.body(x) @ self.queries.T)


def findings(case: str) -> list[str]:
    torch.manual_seed(0)
    model = Pooled(case)
    optimizer = torch.optim.Adam([*model.parameters(), *[model.queries] * (case == "given")], lr=1e-2)
    with sightline.attach(model, optimizer, on_finding=None, budget=1.0, checks=load((page("T1"),))) as guard:
        for _ in range(8):
            x = torch.randn(8, 6)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long()).backward()
            optimizer.step()
            assert model.queries.grad is not None
            if case == "moved by hand":
                with torch.no_grad():
                    model.queries -= 0.01 * model.queries.grad
            elif case == "moved through .data":
                model.queries.data -= 0.01 * model.queries.grad
            elif case == "its gradient cleared":
                model.queries.grad = None
            elif case == "a tap":
                model.queries.grad.zero_()
    return [f"{one.severity}: {one.message}" for one in guard.findings]


def test_a_tensor_that_was_to_be_a_parameter() -> None:
    (found,) = findings("forgotten")
    assert found.startswith("error: 1 plain tensors") and found.endswith("queries")


@pytest.mark.parametrize("case", SOUND)
def test_tensors_that_somebody_tends_to(case: str) -> None:
    assert findings(case) == []
