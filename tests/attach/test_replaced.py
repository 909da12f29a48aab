"""Layers that are replaced once the optimizer is made: what it holds then is nobody's, and the new ones rest."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sightline.attach.torch_loop import attach
from sightline.guard.check import Finding

Change = Callable[["Tagger"], list[nn.Parameter]]  # what is to be given to the optimizer


class Tagger(nn.Module):
    """An embedding in front, a projector in the middle, an output layer behind."""

    def __init__(self, *, tied: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 8)
        self.project: nn.Module = nn.Linear(8, 8)
        self.body, self.head = nn.Linear(8, 8), nn.Linear(8, 40)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.head(torch.relu(self.body(torch.relu(self.project(self.embed(ids).mean(1))))))
        return out


def grown(model: Tagger, rows: int = 60) -> list[nn.Parameter]:
    new = nn.Embedding(rows, 8)
    with torch.no_grad():
        new.weight[:40] = model.embed.weight
    tied = model.head.weight is model.embed.weight
    model.embed = new
    if tied:
        model.head = nn.Linear(8, rows)
        model.head.weight = new.weight
    return list(model.embed.parameters()) + ([model.head.bias] if tied else [])


def head(model: Tagger) -> list[nn.Parameter]:
    model.head = nn.Linear(8, 50)
    return list(model.head.parameters())


def deeper(model: Tagger) -> list[nn.Parameter]:
    model.project = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 8))
    return list(model.project.parameters())


def findings(
    change: Change, *, give: bool = False, tied: bool = False, after: int = 0, keep: bool = False, budget: float = 1.0
) -> list[Finding]:
    """Train, and `change` the model once the optimizer is made and has taken `after` steps; `give` it the new ones."""
    torch.manual_seed(0)
    model = Tagger(tied=tied)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    found: list[Finding] = []
    kept = []
    with attach(model, optimizer, on_finding=found.append, budget=budget):
        for step in range(after + 20):
            if step == after:
                kept += list(model.children()) if keep else []
                new = change(model)
                if give:
                    optimizer.add_param_group({"params": new})
            ids = torch.randint(40, (8, 5))
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(ids), ids[:, 0]).backward()
            optimizer.step()
    return found


FAULTS: dict[str, tuple[Change, dict[str, bool | int]]] = {
    "an embedding with more rows": (grown, {}),
    "one of which few rows get gradients": (lambda m: grown(m, rows=20_000), {"after": 12}),
    "a tied one": (grown, {"tied": True}),
    "the output layer": (head, {}),
    "the output layer, amid the run": (head, {"after": 12}),
    "a projector of two layers": (deeper, {}),
    "what was there is kept beside": (grown, {"keep": True}),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_layer_the_optimizer_does_not_know(name: str) -> None:
    change, options = FAULTS[name]
    (finding,) = findings(change, **options)  # type: ignore[arg-type]
    assert (finding.code, finding.severity) == ("T1", "error")
    assert "are in no optimizer" in finding.message and "make the optimizer after" in finding.fix
    assert findings(change, give=True, **options) == []  # type: ignore[arg-type]


def test_at_the_usual_budget() -> None:
    (finding,) = findings(grown, budget=0.02)
    assert finding.code == "T1" and "embed.weight" in finding.message


def frozen(model: Tagger) -> list[nn.Parameter]:
    grown(model)
    model.embed.requires_grad_(False)
    return []


def tied_late(model: Tagger) -> list[nn.Parameter]:
    """Nothing but a tensor that nobody needs any more is left with the optimizer."""
    model.head.weight = model.embed.weight
    return []


def by_itself(parameter: Tensor) -> None:
    assert parameter.grad is not None
    parameter.data.sub_(parameter.grad)


def by_hand(model: Tagger) -> list[nn.Parameter]:
    """A step of its own, as for rows that are to learn faster."""
    grown(model)
    model.embed.weight.register_post_accumulate_grad_hook(by_itself)
    return []


@pytest.mark.parametrize("change", [frozen, tied_late, by_hand])
def test_layers_that_no_optimizer_needs(change: Change) -> None:
    assert findings(change) == []


def two(model: nn.Module, groups: list[list[nn.Parameter]]) -> list[Finding]:
    """Optimizers that take turns."""
    every = [torch.optim.SGD(group, lr=0.01) for group in groups]
    found: list[Finding] = []
    with attach(model, every[0], on_finding=found.append, budget=1.0):
        for step in range(24):
            ids = torch.randint(40, (8, 5))
            model.zero_grad()
            nn.functional.cross_entropy(model(ids), ids[:, 0]).backward()
            every[step % len(every)].step()
    return found


def test_another_optimizer_has_the_new_layer() -> None:
    torch.manual_seed(0)
    model = Tagger()
    first = list(model.parameters())
    assert two(model, [first, grown(model)]) == []


def test_a_body_left_out_beside_an_output_layer_that_was_replaced() -> None:
    """Only what takes another's place counts; a backbone that is not given to the optimizer is a choice."""
    torch.manual_seed(0)
    model = Tagger()
    old = list(model.head.parameters())
    assert two(model, [old + head(model)]) == []
