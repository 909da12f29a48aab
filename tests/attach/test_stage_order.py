"""What a stage showed is evidence before the set-up of the next one is: steps of two stages are never mixed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sightline.attach.torch_loop import attach
from sightline.guard.evidence import Evidence, Setup, StepSeen
from sightline.guard.watch import Watch


@pytest.mark.parametrize("first", [90, 97, 104])
def test_steps_come_before_the_next_set_up(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Evidence] = []
    offer = Watch.offer
    monkeypatch.setattr(Watch, "offer", lambda watch, one: (seen.append(one), offer(watch, one))[1])
    model, criterion = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), nn.CrossEntropyLoss()

    def stage(steps: int) -> None:
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
        for _ in range(steps):
            optimizer.zero_grad()
            criterion(model(torch.randn(8, 4)), torch.randint(0, 2, (8,))).backward()
            optimizer.step()

    with attach(model, on_finding=None, budget=0.3, loss_fn=criterion):
        stage(first)
        model[0].requires_grad_(False)
        stage(12)
    places = [place for place, one in enumerate(seen) if isinstance(one, Setup)]
    late = [one.step for one in seen[places[-1] :] if isinstance(one, StepSeen)]
    assert late and min(late) > first
