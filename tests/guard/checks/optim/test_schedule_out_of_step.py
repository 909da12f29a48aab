"""T6 on bare evidence: which rates, ticks and plans prove something."""

from __future__ import annotations

from typing import Any

import pytest

from sightline.guard.check import CannotTell, Finding
from sightline.guard.checks.optim.schedule_out_of_step import find
from sightline.guard.evidence import ScheduleSeen


def seen(rates: list[float], **more: Any) -> ScheduleSeen:
    return ScheduleSeen(step=len(rates), rates=tuple(rates), **{"forwards": len(rates), **more})


FLAT = [0.1] * 40
DOWN = [0.1 * (1 - n / 20) for n in range(20)]
SAW = [0.1 * min(1.0, (n % 10) / 5) for n in range(40)]


@pytest.mark.parametrize(
    ("rates", "more", "word"),
    [
        (DOWN + [0.0] * 20, {}, "is 0"),
        (SAW, {}, "anew every 10"),
        (SAW, {"scheduler": "LambdaLR", "replaced": (10, 20, 30)}, "anew"),
        (FLAT, {"scheduler": "OneCycleLR", "ticks": 4, "horizon": 40, "closed": True}, "optimizer steps"),
        (FLAT, {"scheduler": "X", "ticks": 40, "horizon": 160, "forwards": 160, "closed": True}, "micro-batches"),
        (DOWN + DOWN[::-1], {"scheduler": "CosineAnnealingLR", "ticks": 40, "horizon": 20, "periodic": True}, "rises"),
        (FLAT, {"scheduler": "X", "ticks": 40, "early": 39}, "before the optimizer"),
        (FLAT, {"scheduler": "X", "ticks": 40, "first_tick": 1, "first_forwards": 1}, "before the optimizer"),
    ],
)
def test_found(rates: list[float], more: dict[str, Any], word: str) -> None:
    verdict = find(seen(rates, **more))
    assert isinstance(verdict, Finding) and word in verdict.message and verdict.severity == "warning"


@pytest.mark.parametrize(
    ("rates", "more"),
    [
        (FLAT, {}),
        ([*DOWN, 0.0], {}),
        (DOWN + [0.01] * 20, {}),
        ([0.0] * 40, {}),
        ([0.0] * 5 + FLAT, {}),
        (SAW[:19], {}),
        (SAW, {"scheduler": "CyclicLR", "ticks": 40}),
        (SAW, {"scheduler": "X", "replaced": (10,)}),
        (SAW, {"scheduler": "X", "replaced": (10, 30)}),
        (FLAT, {"scheduler": "X", "ticks": 4, "horizon": 100, "closed": True}),
        (FLAT, {"scheduler": "X", "ticks": 4, "horizon": 40, "closed": False}),
        (FLAT, {"scheduler": "X", "ticks": 4, "horizon": 40, "closed": True, "restored": True}),
        (FLAT, {"scheduler": "X", "ticks": 40, "early": 39, "inside": 39}),
        (FLAT, {"scheduler": "X", "ticks": 40, "first_tick": 1, "first_forwards": 2}),
        (FLAT, {"scheduler": "X", "ticks": 40, "first_tick": 1, "first_forwards": 1, "restored": True}),
        (DOWN + DOWN[::-1], {"scheduler": "CosineAnnealingLR", "ticks": 40, "horizon": 40, "periodic": True}),
    ],
)
def test_silent(rates: list[float], more: dict[str, Any]) -> None:
    assert find(seen(rates, **more)) is None


def test_too_few_steps() -> None:
    assert isinstance(find(seen([0.1] * 7)), CannotTell)
