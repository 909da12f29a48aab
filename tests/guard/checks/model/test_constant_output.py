"""M2 on bare evidence: one output, of different inputs, that are wanted apart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sightline.guard.check import CannotTell, Finding
from sightline.guard.checks.model.constant_output import find
from sightline.guard.evidence import OutputsSeen

ONE = OutputsSeen(20, 16, outputs=(0.0, 1e-5, 1e-4), inputs=0.9, pulls=(0.9, 1.0, 0.8), over=True)


def test_one_output() -> None:
    assert isinstance(find(ONE), Finding)
    assert isinstance(find(replace(ONE, outputs=(0.0, 1e-7, 0.0), over=False)), Finding)


@pytest.mark.parametrize(
    "change",
    [{"outputs": (1e-2, 1e-5, 1e-5)}, {"inputs": 0.01}, {"pulls": (0.9, 0.05, 0.9)}, {"over": False}],
    ids=["differs", "inputs alike", "wanted alike", "a plateau that a run may leave"],
)
def test_silent(change: dict[str, Any]) -> None:
    assert find(replace(ONE, **change)) is None


@pytest.mark.parametrize("change", [{"rows": 3}, {"outputs": (0.0, 0.0), "pulls": (1.0, 1.0)}])
def test_what_cannot_be_told(change: dict[str, Any]) -> None:
    assert isinstance(find(replace(ONE, **change)), CannotTell)
