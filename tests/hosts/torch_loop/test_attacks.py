"""Backward passes that give no parameter anything, beside those that do: attacks on inputs, penalties on gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

import sightline
from sightline.guard.evidence import Evidence, StepSeen

STEPS, ROWS = 6, 8
Asides = Callable[[nn.Module, Tensor, Tensor], Tensor]


def attacked(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Uphill on the inputs, with a loss that is a module."""
    given = x
    for _ in range(3):
        given = given.detach().requires_grad_()
        (pull,) = torch.autograd.grad(nn.CrossEntropyLoss()(model(given), y), given)
        given = given + 0.1 * pull.sign()
    return torch.cat([x, given.detach()])


def adapted(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """One step away from the weights by gradients that are asked for by name, and away again."""
    params = {name: p for name, p in model.named_parameters() if name != "scale"}
    pulls = torch.autograd.grad(cross_entropy(model(x), y), list(params.values()))
    fast = {name: p.detach() - 0.1 * pull for (name, p), pull in zip(params.items(), pulls, strict=True)}
    with torch.no_grad():
        functional_call(model, fast, (x,))
    return torch.cat([x, x])


def smoothed(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The same graph twice: what it was asked for first does not stay."""
    given = torch.cat([x, x]).requires_grad_()
    torch.autograd.grad(model(given).sum(), given)
    return given.detach()


def trained(aside: Asides, *, accumulated: bool = False) -> tuple[list[str], list[StepSeen]]:
    """`accumulated`: two micro-batches of unequal sizes for each step, whose means count alike."""
    torch.manual_seed(0)
    model, seen = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 4)), list[Evidence]()
    model.register_parameter("scale", nn.Parameter(torch.tensor(3.0)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with sightline.attach(model, optimizer, on_finding=None, budget=1.0) as guard:
        offer, guard.watch.offer = guard.watch.offer, lambda one: (seen.append(one), offer(one))[1]
        for _ in range(STEPS):
            sizes = (ROWS, 3 * ROWS) if accumulated else (ROWS,)
            parts = [(x := torch.randn(size, 6), y := x[:, :4].argmax(1), aside(model, x, y)) for size in sizes]
            optimizer.zero_grad()
            for _, y, both in parts:
                loss = cross_entropy(model(both), torch.cat([y, y])) / len(parts)
                (loss + model.scale.square()).backward()
            optimizer.step()
    codes = [f.code for f in guard.findings]
    return codes, [s for s in seen if isinstance(s, StepSeen)]


@pytest.mark.parametrize("aside", [attacked, adapted, smoothed])
def test_passes_that_leave_no_gradients_are_no_micro_batches(aside: Asides) -> None:
    codes, steps = trained(aside)
    assert codes == [] and len(steps) == STEPS
    assert [[m.supervised for m in step.micro] for step in steps] == [[2 * ROWS]] * STEPS
    assert all(len(step.met) == 1 for step in steps)


@pytest.mark.parametrize("aside", [attacked, adapted, smoothed])
def test_micro_batches_of_unequal_rows_beside_them(aside: Asides) -> None:
    codes, steps = trained(aside, accumulated=True)
    assert codes == ["T5"] and all(len(step.met) == 2 for step in steps)
