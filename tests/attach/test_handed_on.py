"""Vectors that one part made are found again in what another was given, whatever they were joined with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sightline.attach.onlookers.handed_on import handed_on
from sightline.guard.probes.call import Call

BRIDGE, READER = nn.Linear(16, 24), nn.GRU(24, 8, batch_first=True)


def told(given: Tensor, seen: Tensor, **named: Any) -> bool | None:
    made: list[tuple[Call, Any]] = [(Call(BRIDGE, (torch.zeros(1),)), seen)]
    calls = [*made, (Call(READER, () if named else (given,), named), READER(given)[0])]
    found = handed_on(calls, {id(BRIDGE)})
    return None if found is None else bool(found)


def test_values_alone() -> None:
    torch.manual_seed(0)
    seen, words = BRIDGE(torch.randn(4, 5, 16)), torch.randn(4, 3, 24)
    joined = torch.cat([seen.detach(), words], dim=1)
    assert told(joined, seen) is True
    assert told(joined, seen, inputs_embeds=joined) is True
    assert told(torch.cat([0 * seen.detach(), words], dim=1), seen) is False
    assert told(torch.cat([0 * seen.detach(), words], dim=1), 0 * seen) is False  # zeros tell nothing
    assert handed_on([(Call(BRIDGE), seen)], {id(BRIDGE)}) is None
    assert handed_on([(Call(BRIDGE), seen), (Call(READER, (joined,)), joined)], set()) is None
