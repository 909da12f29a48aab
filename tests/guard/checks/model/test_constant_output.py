"""M2 on bare evidence: one output, of different inputs, that are wanted apart."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from sightline.guard.check import CannotTell, Finding
from sightline.guard.checks.model.constant_output import find
from sightline.guard.evidence import CollapseSeen, OutputsSeen, Vectors

ONE = OutputsSeen(20, 16, outputs=(0.0, 1e-5, 1e-4), inputs=0.9, pulls=(0.9, 1.0, 0.8), over=True)

WELL = replace(ONE, outputs=(0.5, 0.5, 0.5))
FIRST = Vectors((0.8, 0.7), (0.5, 0.5), (1e-6, 1e-6), (1.0, 1.0), 1.1)
LAST = Vectors((0.03, 0.02), (0.4, 0.4), (1e-5, 1e-5), (0.03, 0.03), 0.9)
CAME = CollapseSeen(120, 48, (FIRST,) * 3, (LAST,) * 3, inputs=0.9)


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


SHRUNK = replace(LAST, turned=(0.3, 0.3), spread=(0.7, 0.7), sizes=(0.01, 0.01), opposed=1e-5)


def test_vectors_that_came_to_be_one() -> None:
    assert isinstance(find(None, CAME), Finding) and find(None, replace(CAME, inputs=0.01)) is None
    assert isinstance(find(WELL, CAME), Finding)
    assert isinstance(find(WELL, replace(CAME, ended=(SHRUNK,) * 3)), Finding)


@pytest.mark.parametrize(
    "change",
    [
        {"ended": (LAST, LAST, replace(LAST, spread=(0.02, 0.3)))},
        {"began": (replace(FIRST, spread=(0.1, 0.7)),)},
        {"inputs": 0.01},
        {"ended": (LAST, LAST, replace(LAST, turned=(1e-6, 0.2)))},
        {"ended": (LAST, LAST, replace(LAST, pulls=(0.6, 0.6)))},
        {"rows": 3},
        {"ended": (replace(LAST, spread=(float("nan"),) * 2),) * 3},
        {"ended": (replace(LAST, opposed=1.4),) * 3},
        {"ended": (replace(SHRUNK, opposed=0.5),) * 3},
        {"ended": (replace(SHRUNK, sizes=(0.01, 0.4)),) * 3},
    ],
)
def test_vectors_that_are_well(change: dict[str, Any]) -> None:
    assert not isinstance(find(WELL, replace(CAME, **change)), Finding)


@pytest.mark.parametrize(("norm", "loss", "alarmed"), [(0.0, 8.5, True), (1e-9, 8.5, False), (0.0, 0.0, False)])
def test_units_that_are_dead_while_all_samples_are_wanted_lower(norm: float, loss: float, alarmed: bool) -> None:
    """Behind a last ReLU, targets below 0 pull all outputs alike, and nothing of it comes through."""
    step = SimpleNamespace(loss=loss, parameters=(SimpleNamespace(grad_norm=norm, trainable=True, optimized=True),))
    history: Any = SimpleNamespace(measured=(step,) * 3)
    same = replace(ONE, outputs=(0.0, 0.0, 0.0), pulls=(0.0, 0.0, 0.0), over=False)
    assert isinstance(find(same, history=history), Finding) == alarmed
    assert find(replace(same, outputs=(0.0, 0.0, 1e-4)), history=history) is None
